"""What a float16 step computes beside its layers: the same as in float32. MMDetection's own classes are the control."""

from typing import Any

import pytest
import torch
from cuda_autocast import needs_half
from half_step import compare_in_float32
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from recipes import CONFIGS

pytestmark = needs_half

MASK_RCNN = 'mask-rcnn_twins-svt-s_fpn_8xb2-amp-ms-crop-3x_coco'
RETINANET = 'retinanet_twins-svt-s_fpn_8xb2-1x_coco'
ONLY_MASK_RCNN = {'box decoding', 'proposals', 'NMS', 'levels of RoIs', 'mask targets', 'cross entropy'}
UPERNET = 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512'
SEMANTIC_FPN = 'fpn_twins-svt-s_4xb4-80k_ade20k-512x512'


def load_small(folder: str, recipe: str) -> Config:
    """A recipe with a small backbone."""
    cfg = load_config(str(CONFIGS / folder / f'{recipe}.py'))
    dims, ones = [8, 16, 24, 32], (1, 1, 1, 1)
    cfg.model.backbone.arch = dict(embed_dims=dims, depths=ones, num_heads=(1, 2, 3, 4), mlp_ratios=ones)
    cfg.model.backbone.init_cfg = None  # no ImageNet weights are for it
    return cfg


def functions_of_a_detector() -> dict[str, tuple[Any, str]]:
    from mmdet.models import RPNHead, SingleRoIExtractor, losses, task_modules
    from mmdet.models.dense_heads import rpn_head
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head
    from mmdet.models.task_modules.assigners import BboxOverlaps2D

    return {
        'anchors': (task_modules.AnchorGenerator, 'grid_priors'),
        'box decoding': (task_modules.DeltaXYWHBBoxCoder, 'decode'),
        'box encoding': (task_modules.DeltaXYWHBBoxCoder, 'encode'),
        'overlaps': (BboxOverlaps2D, '__call__'),
        'proposals': (RPNHead, 'predict_by_feat'),
        'NMS': (rpn_head, 'batched_nms'),
        'levels of RoIs': (SingleRoIExtractor, 'map_roi_levels'),
        'mask targets': (fcn_mask_head, 'mask_target'),
        'cross entropy': (losses.CrossEntropyLoss, 'forward'),
        'L1 loss': (losses.L1Loss, 'forward'),
        'focal loss': (losses.FocalLoss, 'forward'),
    }


@pytest.mark.parametrize(
    ('recipe', 'library', 'faults'),
    [
        (MASK_RCNN, 'mmtwins', set()),
        pytest.param(
            MASK_RCNN, 'mmdet', {'anchors', 'box decoding', 'proposals', 'levels of RoIs'}, marks=pytest.mark.slow
        ),
        pytest.param(RETINANET, 'mmtwins', set(), marks=pytest.mark.slow),
        pytest.param(
            RETINANET, 'mmdet', {'focal loss'}, marks=pytest.mark.slow
        ),  # of rounded probabilities; mmcv's kernel for GPUs rounds more
    ],
)
def test_a_detector_computes_all_but_its_layers_in_float32(recipe: str, library: str, faults: set[str]) -> None:
    from mmdet.testing import demo_mm_inputs

    cfg = load_small('coco', recipe)
    cfg.model.neck.in_channels = cfg.model.backbone.arch.embed_dims
    if library == 'mmdet':
        cfg = cfg.fromstring(cfg.pretty_text.replace('Float32RoI', 'SingleRoI').replace('Float32', ''), '.py')
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.init_weights()
    if recipe == MASK_RCNN:
        nn.init.normal_(model.rpn_head.rpn_cls.weight, std=0.5)
        nn.init.normal_(model.rpn_head.rpn_reg.weight, std=0.1)
    data = demo_mm_inputs(1, [(3, 480, 1344)], num_items=[3], num_classes=80, with_mask=recipe == MASK_RCNN)
    boxes = data['data_samples'][0].gt_instances.bboxes  # those in the image are small
    boxes[:2] = torch.tensor([[700.3, 40.2, 1010.9, 350.8], [1100.1, 200.3, 1290.7, 433.6]])
    with compare_in_float32(functions_of_a_detector()) as differences, torch.no_grad():
        total, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    assert total.isfinite()
    assert set(differences) == set(functions_of_a_detector()) - (
        {'focal loss'} if recipe == MASK_RCNN else ONLY_MASK_RCNN
    )
    assert {name for name, difference in differences.items() if difference > 1e-5} == faults, differences


@pytest.mark.parametrize('recipe', [UPERNET, SEMANTIC_FPN])
def test_a_segmentor_computes_all_but_its_layers_in_float32(recipe: str) -> None:
    from mmengine.structures import PixelData
    from mmseg.models import losses
    from mmseg.models.decode_heads import decode_head
    from mmseg.structures import SegDataSample

    functions = {
        'pooling': (nn.AdaptiveAvgPool2d, 'forward'),
        'resizing': (decode_head, 'resize'),
        'cross entropy': (losses.CrossEntropyLoss, 'forward'),
        'accuracy': (decode_head, 'accuracy'),
    }
    cfg = load_small('ade20k', recipe)
    dims = cfg.model.backbone.arch.embed_dims
    if recipe == UPERNET:
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = dims, dims[2]
    else:
        cfg.model.neck.in_channels = dims
    cfg.model.data_preprocessor.size = (128, 128)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_model(cfg)).train()
    labels = torch.randint(0, 150, (2, 1, 128, 128))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    data = dict(inputs=list(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)), data_samples=samples)
    with compare_in_float32(functions) as differences, torch.no_grad():
        total, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    assert total.isfinite()
    assert set(differences) == set(functions) - ({'pooling'} if recipe == SEMANTIC_FPN else set())
    # Layer norms return float32, so that UPerNet pools maps of float32.
    assert max(differences.values()) == 0, differences
