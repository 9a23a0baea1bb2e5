"""An export that fails leaves nothing; one that succeeds has been compared."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmtwins.export import build_exportable, checked, describe
from mmtwins.export.checked import Plan, export

PLAN = Plan('onnx-legacy', 64, 96, dynamic=True, sizes=((1, 64, 96), (2, 101, 77)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_compared_at_each_size_and_put_in_place(
    backbone: nn.Module, onnx_packages: None, tmp_path: Path
) -> None:
    steps: list[int] = []
    lines = export(backbone, tmp_path / 'new' / 'a.onnx', PLAN, {}, step=lambda: steps.append(1))
    assert [line.split(':')[0] for line in lines] == ['1 x 3 x 64 x 96', '2 x 3 x 101 x 77']
    assert all(float(line.rsplit(' ')[-1]) < 1e-4 for line in lines)
    assert names(tmp_path / 'new') == ['a.onnx'] and len(steps) == 3


def test_a_file_that_differs_is_not_kept(
    backbone: nn.Module, onnx_packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'a.onnx').write_text('good')

    def write_another(model: nn.Module, *args: object) -> None:
        other = type(model)(**{**TWO_STAGES, 'norm_after_stage': False}).eval()
        write_file(other, *args)

    from mmtwins.export.runtimes import write_file

    TWO_STAGES = dict(
        arch=dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2)),
        window_sizes=(7, 3),
        sr_ratios=(2, 1),
        out_indices=(0, 1),
    )
    monkeypatch.setattr(checked, 'write_file', write_another)
    with pytest.raises(ValueError, match=r'a\.onnx differs by'):
        export(backbone, tmp_path / 'a.onnx', PLAN, {})
    assert names(tmp_path) == ['a.onnx'] and (tmp_path / 'a.onnx').read_text() == 'good'


def write_images(folder: Path, count: int) -> tuple[str, ...]:
    cv2 = pytest.importorskip('cv2')
    torch.manual_seed(1)
    paths = [str(folder / f'{i}.png') for i in range(count)]
    for path in paths:
        cv2.imwrite(path, torch.randint(256, (48, 64, 3), dtype=torch.uint8).numpy())
    return tuple(paths)


def test_int8_of_a_segmentor_agrees_with_it(segmentor_cfg: Config, onnx_packages: None, tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(0)
    model = build_exportable(segmentor_cfg, None)
    nn.init.normal_(model.decode_head.conv_seg.weight, std=0.5)
    plan = Plan('onnx-legacy', 64, 64, dynamic=False, sizes=((1, 64, 64),), int8=True, images=write_images(tmp_path, 3))
    (tmp_path / 'out').mkdir()
    lines = export(model, tmp_path / 'out' / 'a.onnx', plan, describe(segmentor_cfg, model, None), with_tensorrt=True)
    assert lines[1].startswith('int8, 3 calibration images: share of pixels with the same class 0.9')
    assert lines[2].endswith('a_tensorrt.py builds a TensorRT engine; its syntax was checked, it was not run')
    assert names(tmp_path / 'out') == ['a.onnx', 'a_tensorrt.py']
    written = onnx.load(tmp_path / 'out' / 'a.onnx')
    assert 'QuantizeLinear' in {node.op_type for node in written.graph.node}
    held = {entry.key: entry.value for entry in written.metadata_props}
    assert json.loads(held['mean']) == list(segmentor_cfg.model.data_preprocessor.mean)


def test_a_detector_is_onnx_in_float32(detector_cfg: Config, tmp_path: Path) -> None:
    model = nn.Module()
    model.bbox_head = nn.Identity()
    for plan in (PLAN._replace(format='openvino'), PLAN._replace(int8=True, images=('a.png',))):
        with pytest.raises(ValueError, match='all of a detector can be exported to ONNX in float32 only'):
            export(model, tmp_path / 'a.onnx', plan, {})
    assert not names(tmp_path)
