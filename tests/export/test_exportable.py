"""What is exported of a config equals its model, and says what it takes and gives."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint
from torch import nn
from torch.testing import assert_close

from mmtwins.export import AreaPool, ExportableFeatures, ExportableSegmentor, build_exportable, describe
from mmtwins.export.exportable import name_outputs


@pytest.mark.parametrize('output_size', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('size', [(6, 6), (7, 16), (3, 2)])
def test_area_pool_equals_adaptive_average_pooling(output_size: int | tuple[int, int], size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    assert_close(AreaPool(output_size)(x), nn.AdaptiveAvgPool2d(output_size)(x))


def test_the_exportable_segmentor_equals_the_segmentor(segmentor_cfg: Config) -> None:
    exportable = build_exportable(segmentor_cfg, None)
    assert isinstance(exportable, ExportableSegmentor)
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in exportable.modules())
    model = MODELS.build({'_scope_': 'mmseg', **segmentor_cfg.model}).eval()
    model.backbone.load_state_dict(exportable.backbone.state_dict())
    model.decode_head.load_state_dict(exportable.decode_head.state_dict())
    x = torch.randn(1, 3, 96, 160)
    metainfo = [dict(img_shape=(96, 160), ori_shape=(96, 160))]
    with torch.no_grad():
        assert_close(exportable(x), model.whole_inference(x, metainfo), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('align_corners', [False, True])
def test_semantic_fpn_enlarges_maps_without_rounding_sizes(align_corners: bool) -> None:
    fpn = pytest.importorskip('mmseg.models.decode_heads.fpn_head')
    head = fpn.FPNHead([4, 8, 16], in_channels=[8, 8, 8], in_index=[0, 1, 2], channels=8, num_classes=3,
                       align_corners=align_corners).eval()  # fmt: skip
    wrapped = nn.Module()
    wrapped.with_neck, wrapped.backbone, wrapped.decode_head = False, nn.Identity(), head
    copied = ExportableSegmentor(wrapped).decode_head
    assert sum(type(module) is nn.Upsample for module in copied.modules()) == 3
    maps = [torch.randn(1, 8, 12 // 2**i, 20 // 2**i) for i in range(3)]
    with torch.no_grad():
        assert_close(copied(maps), head(maps), rtol=1e-5, atol=1e-5)


def test_backbone_and_neck_of_a_detector(detector_cfg: Config) -> None:
    torch.manual_seed(0)
    exportable = build_exportable(detector_cfg, None, with_neck=True)
    assert isinstance(exportable, ExportableFeatures)
    model = MODELS.build({'_scope_': 'mmdet', **detector_cfg.model}).eval()
    model.backbone.load_state_dict(exportable.backbone.state_dict())
    model.neck.load_state_dict(exportable.neck.state_dict())
    with torch.no_grad():
        maps, expected = exportable(torch.ones(1, 3, 64, 96)), model.extract_feat(torch.ones(1, 3, 64, 96))
    assert [m.shape for m in maps] == [(1, 64, 16, 24), (1, 64, 8, 12), (1, 64, 4, 6), (1, 64, 2, 3)]
    assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    assert name_outputs(exportable, len(maps)) == ['level1', 'level2', 'level3', 'level4']
    assert 'classes' not in describe(detector_cfg, exportable, None)


def test_a_model_without_a_neck_is_refused(segmentor_cfg: Config) -> None:
    with pytest.raises(ValueError, match='has no neck: export its backbone alone with --backbone'):
        build_exportable(segmentor_cfg, None, with_neck=True)


def test_a_segmentor_without_its_heads_is_refused(segmentor_cfg: Config, tmp_path: Path) -> None:
    backbone = build_exportable(segmentor_cfg, None, backbone_only=True)
    path = tmp_path / 'bare.pth'
    save_checkpoint({'state_dict': backbone.state_dict()}, str(path))
    build_exportable(segmentor_cfg, str(path), backbone_only=True)
    with pytest.raises(ValueError, match=r'bare\.pth: decode_head: not in the checkpoint: give that of a whole model'):
        build_exportable(segmentor_cfg, str(path), backbone_only=False)


@pytest.mark.parametrize('meta', [dict(dataset_meta=dict(classes=('a', 'b'))), dict(CLASSES=('a', 'b'))])
def test_classes_of_a_checkpoint_go_before_those_of_the_config(
    meta: dict, segmentor_cfg: Config, tmp_path: Path
) -> None:
    weights = build_exportable(segmentor_cfg, None).state_dict()
    save_checkpoint(dict(state_dict=weights, meta=meta), str(tmp_path / 'model.pth'))
    model = build_exportable(segmentor_cfg, str(tmp_path / 'model.pth'))
    assert json.loads(describe(segmentor_cfg, model, 'model.pth')['classes']) == ['a', 'b']


def test_a_backbone_has_no_classes(backbone: nn.Module) -> None:
    found = describe(Config(dict(model=dict())), backbone, None)
    assert found == dict(channel_order='BGR', checkpoint='none', config='')
    assert name_outputs(backbone, 2) == ['stage1', 'stage2']
