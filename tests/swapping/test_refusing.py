"""Models that cannot take Twins are refused with the reason."""

import pytest

import mmtwins
from mmtwins.engine.config import load_config
from mmtwins.engine.config_sections import type_of
from mmtwins.swapping.refusing import METHODS, CannotSwap, check_holder

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

CASES = {
    'mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py': "BiSeNet's spatial path",
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py': "STDC's context path",
    'mmseg::icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py': 'three image sizes',
    'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py': 'an encoder and a decoder in one',
    'mmseg::san/san-vit-b16_coco-stuff164k-640x640.py': r'text-image model: text_encoder \(CLIPTextEncoder\)',
    'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py': 'stacked hourglass',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py': r'owns the last stage of a ResNet \(shared_head=ResLayer',
    'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py': "TridentNet's branches|owns the last stage",
    'mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py': 'its neck RFP feeds its features back into the backbone',
    'mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py': 'text-image model: language_model',
    'mmdet::misc/d2_faster-rcnn_r50-caffe_fpn_ms-90k_coco.py': 'Detectron2 builds the detector',
}


@pytest.mark.parametrize(('base', 'reason'), CASES.items(), ids=[base.split('/')[-1] for base in CASES])
def test_a_model_that_cannot_take_twins_is_refused_with_the_reason(base: str, reason: str) -> None:
    cfg = load_config(base)
    with pytest.raises(CannotSwap, match=reason):
        mmtwins.swap_backbone(cfg)


def test_a_config_without_a_model_and_an_unknown_architecture_are_refused() -> None:
    cfg = load_config('mmdet::_base_/default_runtime.py')
    with pytest.raises(ValueError, match='it has no model'):
        mmtwins.swap_backbone(cfg)
    with pytest.raises(ValueError, match="arch 'svt-x': the architectures are svt-s, svt-b, svt-l, pcpvt-s"):
        mmtwins.swap_backbone(cfg, 'svt-x')


def test_names_are_those_of_classes_without_their_library() -> None:
    assert type_of(dict(type='mmpretrain.ResNet')) == 'ResNet'
    assert type_of(dict(type=mmtwins.TwinsSVTBackbone)) == 'TwinsSVTBackbone'
    assert all(reason.startswith('its backbone is the method: ') for reason in METHODS.values())


@pytest.mark.parametrize(('head', 'reason'), [('DPTHead', 'class token'), ('LRASPPHead', '49 x 49 .* stride 8')])
def test_heads_that_read_more_than_maps_are_refused(head: str, reason: str) -> None:
    backbone = dict(type='ResNet')
    check_holder(dict(backbone=backbone, decode_head=[dict(type='FCNHead')]))
    with pytest.raises(CannotSwap, match=reason):
        check_holder(dict(backbone=backbone, decode_head=[dict(type='FCNHead'), dict(type=f'mmseg.{head}')]))


def test_switchable_convolutions_of_detectors_are_a_feature_extractor() -> None:
    check_holder(dict(backbone=dict(type='DetectoRS_ResNet', sac=dict(type='SAC')), neck=dict(type='FPN')))
