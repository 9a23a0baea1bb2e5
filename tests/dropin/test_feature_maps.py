"""``features_only=True``: the maps, their description, and the names of the weights."""

import pytest
import torch
from small import SVT, images, make, plain_maps
from torch.testing import assert_close

import mmtwins
from mmtwins.dropin.feature_maps import FeatureInfo, take_indices


@torch.no_grad()
def test_maps_of_some_stages() -> None:
    x, whole = images(), make()
    expected = plain_maps(whole, x)
    for out_indices, taken in ((None, [0, 1, 2, 3]), (2, [2, 3]), ((0, 2), [0, 2]), ([-3], [1])):
        net = mmtwins.create_model('twins_svt_small', features_only=True, out_indices=out_indices, **SVT).eval()
        assert all(name.startswith('model.') for name in net.state_dict())
        net.load_state_dict({name: whole.state_dict()[name.removeprefix('model.')] for name in net.state_dict()})
        maps = net(x)
        assert isinstance(maps, list)
        assert len(maps) == len(taken)
        for one, i in zip(maps, taken):
            assert one.is_contiguous()
            assert_close(one, expected[i], rtol=0, atol=1e-5 * expected[i].abs().max().item())
        assert net.feature_info.channels() == [SVT['embed_dims'][i] for i in taken]
        assert net.feature_info.reduction() == [(4, 8, 16, 32)[i] for i in taken]
        assert net.out_indices == taken
        assert len(net.model.blocks) == max(taken) + 1


def test_what_is_left_of_the_model() -> None:
    net = mmtwins.create_model('twins_pcpvt_base', features_only=True, in_chans=4, device='meta')
    assert not any(('.norm.' in name and name.count('.') == 2) or 'head' in name for name in net.state_dict())
    assert net.in_chans == 4
    assert not {'num_classes', 'classifier', 'global_pool'} & set(net.pretrained_cfg)
    assert net.default_cfg is net.pretrained_cfg
    net.set_grad_checkpointing()
    assert net.model.grad_checkpointing


def test_description() -> None:
    info = FeatureInfo([dict(num_chs=8, reduction=4, module='a'), dict(num_chs=16, reduction=8, module='b')], [1])
    assert info.channels() == [16]
    assert info.channels(0) == 8
    assert info.reduction([0, 1]) == [4, 8]
    assert info.module_name() == ['b']
    assert info.get_dicts() == [dict(num_chs=16, reduction=8, module='b', index=1)]
    assert info.get_dicts(['index', 'num_chs'], 0) == dict(index=0, num_chs=8)
    assert info[0]['module'] == 'a'
    assert len(info) == 2
    assert info.out_indices == (1,)


def test_choices_of_stages() -> None:
    assert take_indices(4, None) == [0, 1, 2, 3]
    assert take_indices(4, 3) == [1, 2, 3]
    assert take_indices(4, (-1, 0)) == [3, 0]
    with pytest.raises(ValueError, match='stage 2 is out of range: the stages are -2 to 1'):
        mmtwins.create_model(
            'twins_svt_small',
            features_only=True,
            out_indices=(2,),
            **{
                **SVT,
                'embed_dims': (8, 16),
                'depths': (2, 2),
                'num_heads': (1, 2),
                'mlp_ratios': (2, 2),
                'wss': (2, 2),
                'sr_ratios': (8, 4),
            },
        )
