"""The module that stands for gvt.py."""

import pytest
import torch

from mmtwins.dropin import gvt
from mmtwins.dropin.public_code import PublicClassifier
from mmtwins.models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES


@pytest.mark.parametrize('name', gvt.__all__)
def test_each_name_makes_its_model(name: str) -> None:
    model = getattr(gvt, name)(num_classes=3, drop_path_rate=0.1, drop_block_rate=None, device='meta')
    assert type(model) is PublicClassifier
    size = name.removesuffix('_v0').rpartition('_')[2]
    expected = (ARCHITECTURES if name.startswith('alt') else PCPVT_ARCHITECTURES)[size]
    assert (model.depths, model.embed_dims) == (list(expected['depths']), list(expected['embed_dims']))
    assert hasattr(model.blocks[0][0].attn, 'qkv') == name.startswith('alt')
    assert model.head.weight.shape == torch.Size([3, expected['embed_dims'][-1]])
    assert model.default_cfg['architecture'] == name
