"""Trials of swapped configs: a sample of twelve folders, each trained for one iteration and asked for predictions."""

import math

import pytest
import torch
from mmengine.config import Config
from shrunk import ARCH
from torch import nn

from mmtwins.engine.config import load_config
from mmtwins.models.architectures import ARCHITECTURES
from mmtwins.swapping.planning import plan_swap
from mmtwins.swapping.trying import _check_gradients, stand_alone, try_model
from mmtwins.swapping.writing import write_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')

SAMPLE = [
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::fastfcn/fastfcn_r50-d32_jpu_aspp_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
    'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.01-coco.py',
    'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
]


@pytest.mark.parametrize('base', SAMPLE, ids=[base.split('/')[0] for base in SAMPLE])
def test_a_swapped_model_trains_and_predicts(base: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, 'small', ARCH)  # the heads keep their size
    plan = plan_swap(load_config(base), 'svt-s')
    path = tmp_path / 'own.py'
    path.write_text(write_config(plan, base, 'svt-s'))
    trial = try_model(load_config(str(path)), plan.path, iterations=1)
    assert len(trial.losses) == 1
    assert math.isfinite(trial.losses[0])
    assert trial.losses[0] > 0
    assert trial.predictions >= 1
    assert trial.parameters > 10_000


def test_gradients_that_are_not_finite_or_all_0_are_an_error() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='sum up to 0'):
        _check_gradients(layer)
    layer.weight.grad = torch.full((2, 2), math.nan)
    with pytest.raises(ValueError, match='sum up to nan'):
        _check_gradients(layer)
    layer.weight.grad = torch.full((2, 2), -1.0)
    _check_gradients(layer)


def test_a_trial_leaves_the_config_as_it_was() -> None:
    cfg = Config(dict(default_scope='mmseg', model=dict(type='Nothing', data_preprocessor=dict(size=(512, 512)))))
    with pytest.raises(ValueError, match='Nothing'):
        try_model(cfg, ('model',))
    assert cfg.model.data_preprocessor.size == (512, 512)


def test_a_model_is_built_without_downloads_other_processes_and_torchvision() -> None:
    cfg = Config(
        dict(
            model=dict(
                teacher_config='configs/gfl/gfl_r101_fpn_ms-2x_coco.py',
                teacher_ckpt='https://nowhere.example/x.pth',
                backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='imagenet:svt-small')),
                roi_head=[dict(norm_cfg=dict(type='MMSyncBN'), roi_layer=dict(type='RoIAlign', use_torchvision=True))],
            )
        )
    )
    stand_alone(cfg)
    assert cfg.model.teacher_config.model.type == 'GFL'
    assert cfg.model.teacher_ckpt is None
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.roi_head == [
        dict(norm_cfg=dict(type='SyncBN'), roi_layer=dict(type='RoIAlign', use_torchvision=False))
    ]
