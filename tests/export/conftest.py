"""A segmentor and a backbone that are exported in a second."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

CONFIGS = Path(__file__).parents[2] / 'configs'
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
TWO_STAGES = dict(
    arch=dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2)),
    window_sizes=(7, 3),
    sr_ratios=(2, 1),
    out_indices=(0, 1),
)


@pytest.fixture
def segmentor_cfg() -> Config:
    """The toy segmentor, smaller still."""
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(CONFIGS / 'toy' / 'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py')
    cfg.model.backbone.arch.update(TINY, _delete_=False)
    cfg.model.backbone.arch.pop('_delete_')
    cfg.model.decode_head.update(in_channels=list(TINY['embed_dims']), channels=16)
    cfg.model.auxiliary_head.update(in_channels=TINY['embed_dims'][2], channels=16)
    return cfg


@pytest.fixture
def detector_cfg() -> Config:
    """The toy detector."""
    pytest.importorskip('mmdet')
    return Config.fromfile(CONFIGS / 'toy' / 'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco.py')


@pytest.fixture
def backbone() -> nn.Module:
    """Two stages with weights that make every layer matter."""
    from mmtwins import TwinsSVTBackbone

    torch.manual_seed(0)
    model = TwinsSVTBackbone(**TWO_STAGES).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture
def onnx_packages() -> None:
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(module, reason=f"needs {module}: pip install '.[export]'")
