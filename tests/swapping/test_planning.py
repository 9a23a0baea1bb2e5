"""Swapped configs: what changes, and what stays."""

import pytest
from mmengine.config import Config

import mmtwins
from mmtwins.engine.config import load_config
from mmtwins.swapping.planning import plan_swap
from mmtwins.swapping.refusing import CannotSwap

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

DEEPLAB = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
QDTRACK = 'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'
CAFFE = 'mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py'


def test_a_segmentor_changes_in_these_places_and_in_no_other() -> None:
    before = load_config(DEEPLAB)
    text = before.pretty_text
    after = mmtwins.swap_backbone(before, 'svt-l')
    assert before.pretty_text == text
    model, optimizer = after.model, after.optim_wrapper.optimizer
    assert model.backbone == dict(
        type='TwinsSVTBackbone',
        arch='large',
        window_padding='masked',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='imagenet:svt-large'),
    )
    assert (model.decode_head.in_channels, model.decode_head.c1_in_channels) == (1024, 128)
    assert model.auxiliary_head.in_channels == 512
    assert model.pretrained is None
    assert optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert after.param_scheduler[0].eta_min == 6e-7
    expected = before.copy()
    for key in ('backbone', 'pretrained'):
        expected.model[key] = model[key]
    expected.model.decode_head.update(in_channels=1024, c1_in_channels=128)
    expected.model.auxiliary_head.in_channels = 512
    expected.param_scheduler[0].eta_min = 6e-7
    expected.optim_wrapper.optimizer = optimizer
    expected.optim_wrapper.paramwise_cfg = after.optim_wrapper.paramwise_cfg
    expected.custom_imports = dict(imports=['mmtwins'], allow_failed_imports=False)
    assert after._cfg_dict == expected._cfg_dict


def test_a_detector_keeps_strides_clipping_and_its_adamw() -> None:
    after = mmtwins.swap_backbone(load_config(DINO), 'pcpvt-b')
    assert after.model.backbone == dict(
        type='TwinsPCPVTBackbone',
        arch='base',
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='imagenet:pcpvt-base'),
    )
    assert after.model.neck.in_channels == [128, 320, 512]
    assert after.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert after.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    keys = after.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.backbone == dict(lr_mult=0.1)
    assert keys['backbone.blocks.2.17.attn.norm'] == dict(lr_mult=0.1, decay_mult=0.0)


def test_images_are_normalised_as_the_weights_need_it() -> None:
    before = load_config(CAFFE)
    processor = mmtwins.swap_backbone(before).model.data_preprocessor
    assert before.model.data_preprocessor.bgr_to_rgb is False
    assert processor.bgr_to_rgb is True
    assert processor.mean == [123.675, 116.28, 103.53]
    assert processor.std == [58.395, 57.12, 57.375]
    assert processor.pad_size_divisor == 32
    assert processor.pad_mask is True


def test_the_detector_in_a_tracker_changes_and_starts_from_imagenet() -> None:
    plan = plan_swap(load_config(QDTRACK), 'svt-s')
    assert plan.path == ('model', 'detector')
    detector = plan.changes['model']['detector']
    assert detector['init_cfg'] is None
    assert detector['neck'] == dict(in_channels=[64, 128, 256, 512])
    assert 'backbone' not in plan.changes['model']
    assert 'track_head' not in plan.changes['model']


def test_plugins_that_are_lost_and_strides_that_change_are_said() -> None:
    plan = plan_swap(load_config('mmdet::gcnet/mask-rcnn_r50-gcb-r16-c3-c5_fpn_1x_coco.py'), 'svt-s')
    assert 'its plugins are removed' in plan.reasons['backbone']
    plan = plan_swap(load_config(DEEPLAB), 'svt-s')
    assert 'those of Twins have stride 4, 8, 16, 32' in plan.reasons['backbone']
    assert [feature.stride for feature in plan.old] == [4, 8, 8, 8]


@pytest.mark.slow
def test_a_swapped_config_can_be_swapped_again() -> None:
    small = mmtwins.swap_backbone(load_config(DINO))
    large = mmtwins.swap_backbone(small, 'svt-l')
    assert large.model.backbone.arch == 'large'
    assert large.model.neck.in_channels == [256, 512, 1024]
    assert large.custom_imports == small.custom_imports


def test_imports_of_the_base_stay_and_a_model_without_backbone_is_refused() -> None:
    before = load_config(DEEPLAB)
    before.custom_imports = dict(imports='json', allow_failed_imports=False)
    assert mmtwins.swap_backbone(before).custom_imports.imports == ['json', 'mmtwins']
    with pytest.raises(CannotSwap, match='no part of the model is called backbone'):
        mmtwins.swap_backbone(Config(dict(model=dict(type='X', head=dict(type='Y')))))


@pytest.mark.parametrize('may_fail', [True, False])
def test_imports_of_the_base_may_fail_where_they_might_before(may_fail: bool) -> None:
    base = load_config(DEEPLAB)
    base.custom_imports = dict(imports='not_there', allow_failed_imports=may_fail)
    imports = plan_swap(base, 'svt-s').changes['custom_imports']
    assert imports == dict(imports=['not_there', 'mmtwins'], allow_failed_imports=may_fail)
