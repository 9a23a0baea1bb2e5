"""Channels and strides of backbones and necks, found by building them."""

import pytest
from mmengine.config import Config

from mmtwins.swapping.features import Feature, measure_backbone, measure_neck
from mmtwins.swapping.refusing import CannotSwap

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

SEG = Config(dict(default_scope='mmseg'))
DET = Config(dict(default_scope='mmdet'))
HRNET = {
    f'stage{i}': dict(
        num_modules=1, num_branches=i, block='BASIC', num_blocks=(1,) * i, num_channels=(8, 16, 24, 32)[:i]
    )
    for i in (2, 3, 4)
}
HRNET['stage1'] = dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(8,))


@pytest.mark.parametrize(
    ('cfg', 'backbone', 'channels', 'strides'),
    [
        (DET, dict(type='ResNet', depth=18), (64, 128, 256, 512), (4, 8, 16, 32)),
        (DET, dict(type='ResNet', depth=50, out_indices=(1, 2, 3)), (512, 1024, 2048), (8, 16, 32)),
        (
            SEG,
            dict(type='ResNetV1c', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), pretrained='open-mmlab://x'),
            (256, 512, 1024, 2048),
            (4, 8, 8, 8),
        ),
        (SEG, dict(type='SwinTransformer', embed_dims=24, depths=(1,) * 4), (24, 48, 96, 192), (4, 8, 16, 32)),
        (SEG, dict(type='MixVisionTransformer', embed_dims=8, num_layers=(1,) * 4), (8, 16, 32, 64), (4, 8, 16, 32)),
        (
            DET,
            dict(type='PyramidVisionTransformer', num_layers=[1] * 4, num_heads=[1, 2, 5, 8]),
            (64, 128, 320, 512),
            (4, 8, 16, 32),
        ),
        (SEG, dict(type='HRNet', extra=HRNET), (8, 16, 24, 32), (4, 8, 16, 32)),
        (
            SEG,
            dict(
                type='VisionTransformer',
                img_size=(64, 64),
                embed_dims=24,
                num_layers=4,
                num_heads=2,
                out_indices=(1, 3),
            ),
            (24, 24),
            (16, 16),
        ),
        (DET, dict(type='Darknet', out_indices=(3, 4, 5)), (256, 512, 1024), (8, 16, 32)),
    ],
    ids=lambda value: value.get('type') if isinstance(value, dict) else None,
)
def test_channels_and_strides_are_those_of_the_maps(cfg, backbone, channels, strides) -> None:
    assert measure_backbone(cfg, backbone) == [Feature(*pair) for pair in zip(channels, strides)]


def test_a_backbone_that_gives_no_maps_or_cannot_be_built_is_refused() -> None:
    tokens = dict(
        type='VisionTransformer', img_size=64, embed_dims=24, num_layers=2, num_heads=2, output_cls_token=True
    )
    with pytest.raises(CannotSwap, match='VisionTransformer gives something else than maps'):
        measure_backbone(SEG, {**tokens, 'with_cls_token': True})
    with pytest.raises(CannotSwap, match=r"its backbone Nowhere cannot be run here: .*'Nowhere' is no model of mmseg"):
        measure_backbone(SEG, dict(type='Nowhere'))


def test_a_neck_is_run_on_the_maps_that_it_gets() -> None:
    maps = [Feature(8, 4), Feature(16, 8), Feature(24, 16)]
    neck = dict(type='FPN', in_channels=[8, 16, 24], out_channels=12, num_outs=4)
    assert measure_neck(DET, neck, maps) == [Feature(12, stride) for stride in (4, 8, 16, 32)]
    with pytest.raises(RuntimeError, match='channels'):
        measure_neck(DET, neck, maps[::-1])
