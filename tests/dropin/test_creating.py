"""``create_model``: where weights come from, and what it takes and refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from server import COMMIT, Server
from small import PCPVT, SVT, draw, images, make
from torch import Tensor

import mmtwins
from mmtwins.dropin.classifier import Twins
from mmtwins.dropin.names import PUBLIC_NAMES, TIMM_NAMES
from mmtwins.dropin.public_code import PublicClassifier
from mmtwins.weights.pretrained import IMAGENET, HubFile, WebFile

SMALL = {key: value for key, value in SVT.items() if key != 'num_classes'}
REPOSITORY = 'timm/twins_svt_small.in1k'


def imagenet_weights() -> dict[str, Tensor]:
    return draw(mmtwins.create_model('twins_svt_small', **SMALL))


@pytest.fixture
def on_hub(hub: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub with the weights of a small model as those of twins_svt_small."""
    source = HubFile(REPOSITORY, COMMIT, hub.hub(REPOSITORY, save(imagenet_weights())))
    nowhere = WebFile(f'{hub.url}/alt_gvt_small-01234567.pth')
    monkeypatch.setitem(IMAGENET, 'svt-small', (source, nowhere))
    return hub


def create(name: str = 'twins_svt_small', **arguments: Any) -> Any:
    return mmtwins.create_model(name, **{**SMALL, **arguments})


@pytest.mark.parametrize('name', (*TIMM_NAMES, *PUBLIC_NAMES))
def test_all_names_build(name: str) -> None:
    model = mmtwins.create_model(name, device='meta')
    assert type(model) is (Twins if name in TIMM_NAMES else PublicClassifier)
    assert model.training
    assert model.num_classes == 1000
    assert model.default_cfg is model.pretrained_cfg
    assert model.pretrained_cfg['architecture'] == name
    padding = getattr(model.blocks[0][0].attn, 'window_padding', 'zero')
    assert padding == 'zero'


def test_pretrained_weights_come_from_the_hub(on_hub: Server) -> None:
    weights = imagenet_weights()
    for name in ('twins_svt_small', 'twins_svt_small.in1k', 'alt_gvt_small', f'hf-hub:{REPOSITORY}'):
        given = create(name, pretrained=True).state_dict()
        assert all(torch.equal(given[key], value) for key, value in weights.items())
    assert on_hub.fetched == [f'/{REPOSITORY}/resolve/{COMMIT}/model.safetensors']
    model = create(pretrained=True, num_classes=4, in_chans=1)
    assert model.head.weight.shape == (4, 32)
    assert torch.equal(model.norm.weight, weights['norm.weight'])
    assert torch.allclose(model.patch_embeds[0].proj.weight, weights['patch_embeds.0.proj.weight'].sum(1, keepdim=True))
    net = create(pretrained=True, features_only=True, out_indices=(0, 1))
    assert torch.equal(net.model.blocks[1][1].attn.q.weight, weights['blocks.1.1.attn.q.weight'])
    assert net(images())[1].shape == (2, 16, 8, 8)


def test_without_weights_one_message_says_what_to_do(on_hub: Server) -> None:
    (on_hub.folder / REPOSITORY / 'resolve' / COMMIT / 'model.safetensors').unlink()
    message = r'no source has the right file .*checkpoint_path=FILE, or save http.*\.pth as .*pretrained=False$'
    with pytest.raises(OSError, match=message):
        create(pretrained=True)


def test_own_weights(tmp_path: Path) -> None:
    weights = draw(make())
    save_file(weights, tmp_path / 'own.safetensors')
    for arguments in (
        dict(checkpoint_path=tmp_path / 'own.safetensors', num_classes=5),
        dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'own.safetensors'), num_classes=5)),
        dict(pretrained=True, pretrained_cfg=dict(state_dict=weights, num_classes=5)),
    ):
        model = create(**arguments)
        assert not {'file', 'state_dict'} & model.default_cfg.keys()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r'head.weight is \(5, 32\) in the checkpoint, \(1000, 32\) in the model'):
        create(checkpoint_path=tmp_path / 'own.safetensors')


def test_arguments_as_timm_takes_them() -> None:
    model = create(
        num_classes=None, drop_block_rate=None, exportable=True, scriptable=False, pretrained_cfg='in1k', img_size=256
    )
    assert model.num_classes == 1000
    assert create(pretrained_cfg_overlay=dict(num_classes=9, crop_pct=1.0)).head.out_features == 9
    model = create(dtype=torch.bfloat16, num_classes=2)
    assert model(images().bfloat16()).dtype == torch.bfloat16
    assert next(create(device='meta').parameters()).is_meta
    assert create('twins_pcpvt_small', wss=None).blocks[0][0].attn.sr_ratio == 8
    assert create('twins_pcpvt_small', **PCPVT).num_classes == 5


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(pretrained='a.pth'),
            "pretrained='a.pth': give True or False; a file of weights goes into checkpoint_path",
        ),
        (dict(pretrained_cfg='in22k'), "pretrained_cfg='in22k': in1k is the one tag"),
        (dict(pretrained_cfg_overlay=dict(crop=1)), "pretrained_cfg has no entry 'crop': it may have url, hf_hub_id"),
        (
            dict(pretrained_cfg_overlay=dict(url='http://a')),
            "url='http://a' is another source than the authors' weights",
        ),
        (dict(scriptable=True), 'scriptable=True: torch.jit.script does not take this model'),
        (dict(cache_dir='/a'), "cache_dir='/a': set the environment variables HF_HOME"),
        (dict(norm_layer=3), 'norm_layer=3 is no argument of Twins: there are attn_drop_rate, depths, drop_path_rate'),
        (dict(features_only=True, out_indices=(7,)), 'stage 7 is out of range'),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        create(**arguments)
