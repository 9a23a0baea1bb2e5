"""The drop-in beside timm itself, where it is installed: outputs, members, pruning, weights with other channels."""

from types import ModuleType
from typing import Any

import pytest
import torch
from small import PCPVT, SVT, draw, images
from torch import Tensor
from torch.testing import assert_close

import mmtwins
from mmtwins.dropin.names import TIMM_NAMES


def build(timm: ModuleType, name: str, **arguments: Any) -> tuple[Any, Any]:
    """The same model of ours and of timm, with equal weights."""
    models = [create(name, **arguments).eval() for create in (mmtwins.create_model, timm.create_model)]
    weights = draw(models[1])
    for model in models:
        model.load_state_dict(weights)
    return models[0], models[1]


def small(name: str) -> dict[str, Any]:
    return PCPVT if 'pcpvt' in name else {**SVT, 'wss': (7, 7, 7, 7)}


def close(one: Tensor, other: Tensor) -> None:
    assert_close(one, other, rtol=0, atol=1e-5 * max(1, other.abs().max().item()))


@pytest.mark.parametrize('name', ['twins_svt_small', 'twins_pcpvt_small'])
@torch.no_grad()
def test_outputs(name: str, timm: ModuleType) -> None:
    ours, theirs = build(timm, name, **small(name))
    for size in ((64, 64), (97, 131)):
        x = images(*size)
        close(ours(x), theirs(x))
        close(ours.forward_features(x), theirs.forward_features(x))
        tokens = theirs.forward_features(x)
        close(ours.forward_head(tokens, pre_logits=True), theirs.forward_head(tokens, pre_logits=True))
        for arguments in (
            dict(),
            dict(indices=2, norm=True),
            dict(indices=[-2, 0], stop_early=True),
            dict(indices=(3, 1), norm=True, stop_early=True),
        ):
            (last, maps), (other_last, other_maps) = (m.forward_intermediates(x, **arguments) for m in (ours, theirs))
            for one, other in zip([last, *maps], [other_last, *other_maps], strict=True):
                close(one, other)
    for indices, arguments in ((1, dict(prune_head=False)), ([0, 2], dict()), (1, dict(prune_norm=True))):
        assert ours.prune_intermediate_layers(indices, **arguments) == theirs.prune_intermediate_layers(
            indices, **arguments
        )
        close(ours(x), theirs(x))
        assert set(ours.state_dict()) == set(theirs.state_dict())
        for member in ('num_features', 'head_hidden_size', 'num_classes', 'global_pool', 'feature_info'):
            assert getattr(ours, member) == getattr(theirs, member), member


@pytest.mark.parametrize('name', TIMM_NAMES)
def test_members_and_weights(name: str, timm: ModuleType) -> None:
    from timm.data import resolve_model_data_config
    from timm.optim import param_groups_layer_decay

    ours, theirs = (create(name, device='meta') for create in (mmtwins.create_model, timm.create_model))
    shapes = [[(n, v.shape) for n, v in model.named_parameters()] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]  # in this order, too: optimizers number them
    for member in ('default_cfg', 'feature_info', 'num_features', 'depths', 'embed_dims', 'in_chans', 'global_pool'):
        assert getattr(ours, member) == getattr(theirs, member), member
    assert ours.no_weight_decay() == theirs.no_weight_decay()
    assert [ours.group_matcher(coarse) for coarse in (False, True)] == [theirs.group_matcher(c) for c in (False, True)]
    rates = [
        sorted((group['lr_scale'], group['weight_decay'], len(group['params'])) for group in groups)
        for groups in map(param_groups_layer_decay, (ours, theirs))
    ]
    assert rates[0] == rates[1]
    data = [resolve_model_data_config(model) for model in (ours, theirs)]
    assert data[0] == data[1]


@torch.no_grad()
def test_maps(timm: ModuleType) -> None:
    for out_indices in (None, 2, (0, 2), (-3,)):
        arguments = dict(small('svt'), features_only=True, out_indices=out_indices)
        ours, theirs = build(timm, 'twins_svt_small', **arguments)
        assert set(ours.state_dict()) == set(theirs.state_dict())
        assert ours.feature_info.get_dicts() == theirs.feature_info.get_dicts()
        assert ours.feature_info.channels() == theirs.feature_info.channels()
        assert ours.out_indices == theirs.out_indices
        assert ours.default_cfg == theirs.default_cfg
        for one, other in zip(ours(images(97, 131)), theirs(images(97, 131)), strict=True):
            close(one, other)


@pytest.mark.parametrize(
    'arguments', [dict(in_chans=1), dict(in_chans=5, num_classes=0), dict(features_only=True, in_chans=2)]
)
def test_pretrained_weights_are_adapted_alike(arguments: dict, timm: ModuleType) -> None:
    sizes = {key: value for key, value in small('svt').items() if key != 'num_classes'}
    weights = draw(mmtwins.create_model('twins_svt_small', **sizes))
    source = dict(pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights))
    ours, theirs = (
        create('twins_svt_small', **sizes, **source, **arguments)
        for create in (mmtwins.create_model, timm.create_model)
    )
    for name, value in theirs.state_dict().items():
        close(ours.state_dict()[name], value)


@pytest.mark.slow
@pytest.mark.parametrize('name', TIMM_NAMES)
@torch.no_grad()
def test_logits_of_the_published_sizes(name: str, timm: ModuleType) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    ours = mmtwins.create_model(name, device='meta').eval()
    ours.load_state_dict({n: v + 0.02 * torch.randn_like(v) for n, v in theirs.state_dict().items()}, assign=True)
    theirs.load_state_dict(ours.state_dict())
    for size in ((224, 224), (200, 264)):
        x = images(*size, batch=1)
        error = (ours(x) - theirs(x)).abs().max().item()
        print(f'{name} {size}: largest error {error:.1e}, logits up to {theirs(x).abs().max().item():.1f}')
        assert error < 1e-5
