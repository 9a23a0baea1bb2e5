"""Every format: one file takes all sizes, gives the model's results, and says what it is."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from mmtwins.export import FORMATS, export_onnx, verify, verify_onnx
from mmtwins.export.runtimes import METADATA, open_file, write_file
from mmtwins.installing import how_to_install

SHAPES = [(1, 3, 224, 224), (1, 3, 224, 250), (2, 3, 101, 77), (1, 3, 32, 32)]
SLOW = (
    'onnx',
    'torch-export',
)  # the first is tested below with one stage, the second in tests/models/test_compiling.py


def require(format_: str) -> None:
    if torch.__version__ < FORMATS[format_].torch:
        pytest.skip(f'{format_} needs torch {FORMATS[format_].torch}')
    for package in (*FORMATS[format_].needs, *FORMATS[format_].runs):
        pytest.importorskip(package, reason=f'needs {package}')


def test_a_torch_that_is_too_old_is_named(backbone: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.5.1+cpu'))
    for format_ in ('onnx', 'torch-export'):
        with pytest.raises(
            ImportError, match=f'{format_} needs torch 2.6 or newer, and here is 2.5.1.cpu: choose onnx-leg'
        ):
            write_file(backbone, tmp_path / 'a', format_, 72, 100)
    write_file(backbone, tmp_path / 'a.pt', 'torchscript', 72, 100)


def set_padding(model: nn.Module, window_padding: str) -> nn.Module:
    for module in model.modules():
        if hasattr(module, 'window_padding'):
            module.window_padding = window_padding
    return model


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.parametrize(
    'format_', [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FORMATS]
)
def test_a_file_takes_all_sizes(format_: str, backbone: nn.Module, tmp_path: Path) -> None:
    require(format_)
    path = tmp_path / f'model{FORMATS[format_].suffix}'
    write_file(backbone, path, format_, 72, 100, metadata=dict(checkpoint='a.pth'))
    smallest = 64 if format_ == 'torch-export' else 32
    shapes = [*SHAPES[:3], (1, 3, smallest, smallest)]
    assert [shape for shape, _ in verify(backbone, path, shapes, format_)] == shapes
    changed = set_padding(backbone, 'zero')
    with pytest.raises(ValueError, match='differs by'):
        list(verify(changed, path, shapes, format_))


def test_openvino_computes_all_maps_at_once(
    backbone: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip('openvino', reason='needs openvino')
    write_file(backbone, tmp_path / 'model.xml', 'openvino', 72, 100)
    run, calls = open_file(tmp_path / 'model.xml', 'openvino'), []
    compute = openvino.CompiledModel.__call__
    monkeypatch.setattr(openvino.CompiledModel, '__call__', lambda *args: calls.append(args) or compute(*args))
    assert len(run(torch.randn(1, 3, 72, 100))) > 1
    assert len(calls) == 1


@pytest.mark.parametrize('window_padding', ['zero', 'meituan'])
def test_a_trace_follows_the_padding_of_the_image_at_hand(
    window_padding: str, backbone: nn.Module, tmp_path: Path
) -> None:
    set_padding(backbone, window_padding)
    write_file(backbone, tmp_path / 'model.pt', 'torchscript', 72, 100)  # padding on both axes
    assert all(difference < 1e-5 for _, difference in verify(backbone, tmp_path / 'model.pt', SHAPES, 'torchscript'))


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.parametrize(
    'window_padding', ['masked', *(pytest.param(padding, marks=pytest.mark.slow) for padding in ('zero', 'meituan'))]
)
def test_onnx_of_a_backbone_takes_all_sizes(window_padding: str, onnx_packages: None, tmp_path: Path) -> None:
    from mmtwins import TwinsSVTBackbone

    require('onnx')
    one_stage = dict(
        arch=dict(embed_dims=(8,), depths=(2,), num_heads=(2,), mlp_ratios=(2,)),
        window_sizes=(7,),
        sr_ratios=(2,),
        out_indices=(0,),
    )
    torch.manual_seed(0)
    model = TwinsSVTBackbone(**one_stage, window_padding=window_padding).eval()
    export_onnx(model, tmp_path / 'model.onnx', 72, 100)
    assert [shape for shape, _ in verify_onnx(model, tmp_path / 'model.onnx', SHAPES)] == SHAPES
    other = TwinsSVTBackbone(**one_stage, norm_after_stage=False).eval()
    with pytest.raises(ValueError, match='differs by'):
        list(verify_onnx(other, tmp_path / 'model.onnx', SHAPES))


def test_files_of_pytorch_hold_the_metadata(backbone: nn.Module, tmp_path: Path) -> None:
    write_file(backbone, tmp_path / 'a.pt', 'torchscript', 72, 100, metadata=dict(mean='[1.0]'))
    held = {METADATA: ''}
    torch.jit.load(tmp_path / 'a.pt', _extra_files=held)
    assert json.loads(held[METADATA]) == dict(mean='[1.0]')


def test_the_older_exporter_names_axes_and_writes_metadata(
    backbone: nn.Module, onnx_packages: None, tmp_path: Path
) -> None:
    import onnx

    write_file(backbone, tmp_path / 'a.onnx', 'onnx-legacy', 72, 100, dynamic=False, metadata=dict(mean='[1.0]'))
    written = onnx.load(tmp_path / 'a.onnx')
    assert [value.name for value in written.graph.output] == ['stage1', 'stage2']
    assert [axis.dim_value for axis in written.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 72, 100]
    assert {entry.key: entry.value for entry in written.metadata_props} == dict(mean='[1.0]')


def test_small_images_and_unknown_formats_are_refused(backbone: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='48 x 64 pixels are too small to trace: give at least 64 x 64'):
        write_file(backbone, tmp_path / 'a.pt', 'torchscript', 48, 64)
    with pytest.raises(ValueError, match='tflite is no format: choose one of onnx, onnx-legacy, openvino'):
        write_file(backbone, tmp_path / 'a.tflite', 'tflite', 64, 64)


@pytest.mark.parametrize(
    ('format_', 'message'),
    [
        ('onnx-legacy', f'onnx is not installed: {re.escape(how_to_install("export"))}'),
        ('openvino', f'openvino is not installed: {re.escape(how_to_install("openvino"))}'),
    ],
)
def test_without_a_package_it_is_said_how_to_get_it(
    format_: str, message: str, backbone: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmtwins.export.runtimes.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=message):
        write_file(backbone, tmp_path / 'model.onnx', format_, 64, 64)
    if format_ == 'openvino':
        with pytest.raises(ImportError, match='openvino is not installed'):
            open_file(tmp_path / 'model.xml', format_)
