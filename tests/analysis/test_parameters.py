"""Parameters in closed form equal those of the models."""

import pytest
from tiny import TINY

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis.parameters import backbone_parameters, subsampling_parameters
from mmtwins.models.attention import GlobalSubsampledAttention
from mmtwins.models.subsampling import SUBSAMPLINGS


@pytest.mark.parametrize('subsampling', [*SUBSAMPLINGS, ('pool', 'separable', 'conv', 'separable')])
@pytest.mark.parametrize('options', [dict(), dict(qkv_bias=False, in_channels=1, norm_after_stage=False)])
def test_closed_form_is_what_a_backbone_has(subsampling: str | tuple, options: dict) -> None:
    common = dict(arch=TINY, sr_ratios=((8, 5), (3, 4), (1, 2), 1), subsampling=subsampling, **options)
    for family, windows in ((TwinsSVTBackbone, {}), (TwinsPCPVTBackbone, dict(window_sizes=None))):
        model = family(**common)
        closed = [sum(stage.values()) for stage in backbone_parameters(**common, **windows)]
        for i, of_stage in enumerate(closed):
            parts = [module[i] for module in (model.patch_embeds, model.blocks, model.pos_block, model.norm_list)]
            assert of_stage == sum(p.numel() for part in parts for p in part.parameters()), i
        assert sum(closed) == sum(p.numel() for p in model.parameters())


def test_parameters_of_one_sub_sampling() -> None:
    for kind in SUBSAMPLINGS:
        attn = GlobalSubsampledAttention(6, 2, (3, 5), subsampling=kind)
        counted = sum(p.numel() for part in (attn.sr, attn.norm) for p in part.parameters())
        assert subsampling_parameters(6, (3, 5), kind) == counted
        assert subsampling_parameters(6, 1, kind) == 0
    with pytest.raises(ValueError, match="subsampling='max' is unknown"):
        subsampling_parameters(6, 2, 'max')


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r'sr_ratios=\(2, 2\) does not match the 4 stages'):
        backbone_parameters('small', sr_ratios=(2, 2))
    with pytest.raises(ValueError, match="arch='huge' is unknown"):
        backbone_parameters('huge')
