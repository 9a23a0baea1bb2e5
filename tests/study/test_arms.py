"""The arms: what they differ in, and which of them can see the legend."""

import pytest
import torch
from mmengine.registry import MODELS

from mmtwins.analysis.cost import num_keys
from mmtwins.study import local_attention  # noqa: F401  # registers the LSA-only backbone
from mmtwins.study.arms import ARMS, backbone_of, trained_as

ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(2, 2, 2, 2), num_heads=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))


@pytest.mark.parametrize('name', ARMS)
def test_every_arm_builds_and_runs(name: str) -> None:
    backbone = MODELS.build(backbone_of(name, ARCH, 256)).eval()
    assert [tuple(out.shape[1:]) for out in backbone(torch.rand(1, 3, 64, 64))] == [
        (8, 16, 16), (16, 8, 8), (16, 4, 4), (16, 2, 2)
    ]  # fmt: skip


def test_the_published_arm_and_those_with_other_keys() -> None:
    published = backbone_of('k7', ARCH, 256)
    assert (published['window_sizes'], published['sr_ratios']) == ((7, 7, 7, 7), (8, 4, 2, 1))
    assert backbone_of('calibrated', ARCH, 256) == published
    assert trained_as('calibrated', ARCH, 256) == 'k7' and trained_as('lsa', ARCH, 256) == 'lsa'
    keys = {}
    for name in ('k7', 'half', 'double'):
        ratios = [(r, r) if isinstance(r, int) else r for r in backbone_of(name, ARCH, 256)['sr_ratios']]
        keys[name] = [(side // h) * (side // w) for side, (h, w) in zip((64, 32, 16, 8), ratios)]
    assert keys['k7'] == [num_keys(64, 64, 8)] * 4 == [64] * 4
    assert keys['half'] == [32] * 4
    assert keys['double'] == [128, 128, 128, 64]  # more than every token there is no key


def test_an_unknown_arm_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="arm 'k8' is unknown: choose one of k7, calibrated"):
        backbone_of('k8', ARCH, 256)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'sees'), [('lsa-32px', False), ('k7', True), ('gsa', True), ('lsa', True)])
def test_local_attention_cannot_see_the_legend(name: str, sees: bool) -> None:
    """No gradient of what is computed for the left quarter of a map reaches the legend through LSA within 32 pixels.

    Through windows of 7 tokens in all stages it does: those of the last stage are 224 of 256 pixels wide.
    """
    mmseg = pytest.importorskip('mmseg')
    from mmengine.registry import init_default_scope

    from mmtwins.engine.config import load_config
    from mmtwins.engine.model import build_model
    from mmtwins.study.arm_training import CONFIG

    assert mmseg
    cfg = load_config(CONFIG)
    init_default_scope('mmseg')
    arch = {key: tuple(values) for key, values in cfg.model.backbone.arch.items()}
    cfg.model.backbone = backbone_of(name, arch, 256)
    torch.manual_seed(0)
    model = build_model(cfg).double().eval()
    image = torch.randn(1, 3, 256, 256, dtype=torch.double, requires_grad=True)
    out = model(image, mode='tensor')  # (1, classes, 64, 64)
    out[..., :16].square().sum().backward()
    assert (image.grad[..., 224:].abs().max() > 0) == sees
    assert image.grad[..., :64].abs().max() > 0
