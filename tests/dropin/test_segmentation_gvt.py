"""The module that stands for segmentation/gvt.py."""

import pytest
import torch
from golden import load_golden

from mmtwins.dropin import segmentation_gvt
from mmtwins.dropin.public_code import PublicBackbone

GOLDEN = dict(
    alt_gvt_small='official_seg_svt_small',
    alt_gvt_base='official_seg_svt_base',
    alt_gvt_large='official_det_svt_large',
    pcpvt_small_v0='official_seg_pcpvt_small',
    pcpvt_large='official_seg_pcpvt_large',
)


@pytest.mark.parametrize('name', segmentation_gvt.__all__)
def test_each_name_makes_the_backbone_of_the_public_code(name: str) -> None:
    with torch.device('meta'):
        model = getattr(segmentation_gvt, name)()
    assert type(model) is PublicBackbone
    rate = model.blocks[3][-1].drop_path1.rate
    assert rate == pytest.approx(0.3 if name == 'alt_gvt_large' else 0.2)
    if name in GOLDEN:
        expected = load_golden(GOLDEN[name])['parameters']
        assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected
    else:
        assert model.depths == [3, 4, 18, 3]
        assert model.norm_list is None
