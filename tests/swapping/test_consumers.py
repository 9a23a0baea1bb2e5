"""Necks and heads follow the channels of the backbone."""

import pytest
from mmengine.config import Config

from mmtwins.swapping.consumers import Edits, change_consumers
from mmtwins.swapping.features import Feature
from mmtwins.swapping.refusing import CannotSwap

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

SEG = Config(dict(default_scope='mmseg'))
DET = Config(dict(default_scope='mmdet'))
RESNET = [Feature(256, 4), Feature(512, 8), Feature(1024, 16), Feature(2048, 32)]
DILATED = [Feature(channels, stride) for (channels, _), stride in zip(RESNET, (4, 8, 8, 8))]
TWINS = [Feature(64, 4), Feature(128, 8), Feature(256, 16), Feature(512, 32)]
BACKBONE = dict(type='ResNet')


def changes_of(cfg: Config, old: list[Feature] = RESNET, new: list[Feature] = TWINS, **parts: object) -> dict:
    return change_consumers(cfg, dict(backbone=BACKBONE, **parts), old, new)[0]


def test_heads_that_read_one_stage_or_several_follow_by_their_index() -> None:
    changes = changes_of(
        SEG,
        DILATED,
        decode_head=dict(type='DepthwiseSeparableASPPHead', in_channels=2048, in_index=3, c1_in_channels=256),
        auxiliary_head=[dict(type='FCNHead', in_channels=1024, in_index=2), dict(type='FCNHead', in_channels=2048)],
    )
    assert changes['decode_head'] == dict(in_channels=512, c1_in_channels=64)
    assert changes['auxiliary_head'] == Edits({0: dict(in_channels=256), 1: dict(in_channels=512)})
    several = dict(type='ANNHead', in_channels=(1024, 2048), in_index=(2, 3))
    assert changes_of(SEG, DILATED, decode_head=several) == dict(decode_head=dict(in_channels=(256, 512)))


def test_the_head_before_an_ocr_head_reads_its_map() -> None:
    heads = [dict(type='FCNHead', in_channels=1024, in_index=2), dict(type='OCRHead', in_channels=2048, in_index=3)]
    expected = Edits({0: dict(in_channels=512, in_index=3), 1: dict(in_channels=512)})
    assert changes_of(SEG, DILATED, decode_head=heads) == dict(decode_head=expected)
    points = [dict(type='FCNHead', in_channels=1024, in_index=2), dict(type='PointHead', in_channels=2048, in_index=3)]
    expected = Edits({0: dict(in_channels=256), 1: dict(in_channels=512)})
    assert changes_of(SEG, DILATED, decode_head=points) == dict(decode_head=expected)


def test_a_neck_that_pools_passes_the_channels_on() -> None:
    neck, head = dict(type='GlobalAveragePooling', kernel_size=(8, 4), stride=1), dict(in_channels=2048)
    assert changes_of(DET, RESNET[3:], TWINS[3:], neck=neck, head=head) == dict(head=dict(in_channels=512))


def test_a_head_inside_a_head_follows_only_if_it_says_which_map_it_reads() -> None:
    head = dict(
        type='IterativeDecodeHead',
        kernel_generate_head=dict(type='FCNHead', in_channels=2048, in_index=3),
        kernel_update_head=[dict(type='KernelUpdateHead', in_channels=512)],  # of its own features
    )
    changes = changes_of(SEG, DILATED, decode_head=head)
    assert changes == dict(decode_head=dict(kernel_generate_head=dict(in_channels=512)))


def test_a_neck_hides_the_channels_from_the_heads_and_keeps_its_order() -> None:
    neck = dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5)
    head = dict(type='RetinaHead', in_channels=256)
    assert changes_of(DET, neck=neck, bbox_head=head) == dict(neck=dict(in_channels=[64, 128, 256, 512]))
    changes = changes_of(DET, neck=[neck, dict(type='BFP', in_channels=256, num_levels=5)], bbox_head=head)
    assert changes == dict(neck=Edits({0: dict(in_channels=[64, 128, 256, 512])}))
    reverse = dict(type='YOLOV3Neck', num_scales=3, in_channels=[2048, 1024, 512], out_channels=[512, 256, 128])
    changes = changes_of(DET, RESNET[1:], TWINS[1:], neck=reverse, bbox_head=dict(in_channels=[512, 256, 128]))
    assert changes == dict(neck=dict(in_channels=[512, 256, 128]))


def test_heads_follow_a_neck_that_passes_maps_on() -> None:
    neck = dict(
        type='SSDNeck',
        in_channels=(512, 1024),
        out_channels=(512, 1024, 512, 256, 256, 256),
        level_strides=(2, 2, 1, 1),
        level_paddings=(1, 1, 0, 0),  # the last map of an image of 256 pixels is empty
        l2_norm_scale=20,
    )
    head = dict(in_channels=(512, 1024, 512, 256, 256, 256))
    changes = changes_of(DET, RESNET[1:3], TWINS[1:3], neck=neck, bbox_head=head)
    assert changes['neck'] == dict(in_channels=(128, 256), out_channels=(128, 256, 512, 256, 256, 256))
    assert changes['bbox_head'] == dict(in_channels=(128, 256, 512, 256, 256, 256))


def test_a_neck_that_makes_a_pyramid_goes() -> None:
    old = [Feature(24, 16)] * 4
    neck = dict(type='MultiLevelNeck', in_channels=[24] * 4, out_channels=24, scales=[4, 2, 1, 0.5])
    head = dict(type='UPerHead', in_channels=[24] * 4, in_index=[0, 1, 2, 3])
    changes = changes_of(SEG, old, neck=neck, decode_head=head, auxiliary_head=dict(in_channels=24, in_index=3))
    assert changes == dict(
        neck=None, decode_head=dict(in_channels=[64, 128, 256, 512]), auxiliary_head=dict(in_channels=512)
    )


def test_regions_are_cut_out_of_the_maps_of_a_detector_without_neck() -> None:
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=2048, featmap_strides=[16]),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=2048, fc_out_channels=1024),
    )
    changes = changes_of(
        DET, [Feature(2048, 16)], [Feature(256, 16)], rpn_head=dict(type='RPNHead', in_channels=2048), roi_head=roi_head
    )
    assert changes == dict(
        rpn_head=dict(in_channels=256),
        roi_head=dict(bbox_roi_extractor=dict(out_channels=256), bbox_head=dict(in_channels=256)),
    )


def test_a_neck_of_maps_of_one_size_and_channels_of_nowhere_are_refused() -> None:
    mla = dict(type='MLANeck', in_channels=[24] * 4, out_channels=8)
    with pytest.raises(CannotSwap, match='its neck MLANeck cannot take maps at strides 4, 8, 16, 32'):
        changes_of(SEG, [Feature(24, 16)] * 4, neck=mla, decode_head=dict(in_channels=8, in_index=0))
    with pytest.raises(CannotSwap, match=r'its decode_head UPerHead has in_channels=\[1, 2\]'):
        changes_of(SEG, decode_head=dict(type='UPerHead', in_channels=[1, 2]))
