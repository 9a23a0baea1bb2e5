"""`mmtwins export`: files for each runtime, and wrong arguments in one line."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint

from mmtwins.commands.export import SUFFIXES
from mmtwins.export import FORMATS

CONFIGS = Path(__file__).parents[2] / 'configs' / 'toy'
SEGMENTOR = CONFIGS / 'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py'
DETECTOR = CONFIGS / 'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco.py'
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))


def test_the_suffixes_are_those_of_the_formats() -> None:
    suffixes = {name: format_.suffix for name, format_ in FORMATS.items()}
    assert suffixes.pop('onnx-legacy') == '.onnx'
    assert {suffix: name for name, suffix in suffixes.items()} == SUFFIXES


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path, Config]:
    """Config and checkpoint of a tiny segmentor."""
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(SEGMENTOR)
    cfg.model.backbone.arch = TINY
    cfg.model.decode_head.update(in_channels=list(TINY['embed_dims']), channels=16)
    cfg.model.auxiliary_head.update(in_channels=TINY['embed_dims'][2], channels=16)
    cfg.dump(tmp_path / 'config.py')
    model = MODELS.build({'_scope_': 'mmseg', **cfg.model})
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
    return tmp_path / 'config.py', tmp_path / 'model.pth', cfg


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        ((DETECTOR, 'none', 'x.onnx'), 1, 'is no segmentor: export'),
        ((SEGMENTOR, 'missing.pth', 'x.onnx'), 1, 'checkpoint missing.pth does not exist'),
        ((SEGMENTOR, 'none', 'x.onnx', '--neck'), 1, 'has no neck: export its backbone alone'),
        ((SEGMENTOR, 'none', 'x.pt', '--calibrate', SEGMENTOR), 1, '--calibrate is for --int8'),
        ((SEGMENTOR, 'none', 'x'), 2, 'x: give --format, or a name that ends in .onnx, .xml, .pt, .pt2'),
        ((SEGMENTOR, 'none', 'x.onnx', '--format', 'openvino'), 2, 'a file of --format openvino must end in .xml'),
        ((SEGMENTOR, 'none', 'x.pt', '--int8', '--calibrate', 'a.png'), 2, '--int8 needs ONNX'),
        ((SEGMENTOR, 'none', 'x.xml', '--tensorrt'), 2, '--tensorrt needs ONNX'),
        ((SEGMENTOR, 'none', 'x.onnx', '--int8'), 2, '--int8 needs --calibrate IMAGES'),
        ((SEGMENTOR, 'none', 'x.onnx', '--backbone', '--neck'), 2, 'not allowed with argument --backbone'),
    ],
)
def test_wrong_arguments_end_in_one_line(
    call_tool: Callable[..., subprocess.CompletedProcess],
    arguments: Sequence[object],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    monkeypatch.setattr('mmtwins.export.exportable.find_spec', lambda name: None)
    result = call_tool('export_onnx.py', *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.slow
def test_onnx_of_a_whole_segmentor(
    call_tool: Callable[..., subprocess.CompletedProcess],
    tiny: tuple[Path, Path, Config],
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(module, reason=f"needs {module}: pip install '.[export]'")
    config, checkpoint, cfg = tiny
    arguments = (config, checkpoint, tmp_path / 'model.onnx')
    result = call_tool('export_onnx.py', *arguments, '--dynamic', '--verify', '--size', '96x128')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('largest relative difference') == 4
    assert '2 x 3 x 250 x 333' in result.stdout
    assert not [w for w in recwarn if 'training mode' in str(w.message) or 'LeafSpec' in str(w.message)]
    assert 'torchvision' not in result.stderr + caplog.text
    assert_says_what_it_takes_and_gives(tmp_path / 'model.onnx', cfg, checkpoint)


def assert_says_what_it_takes_and_gives(path: Path, cfg: Config, checkpoint: Path) -> None:
    import onnx

    written = onnx.load(path)
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*written.graph.input, *written.graph.output)
    }
    classes = cfg.model.decode_head.num_classes
    assert axes == {
        'images': ['batch', 3, 'height', 'width'],
        'logits': ['batch', classes, 'height', 'width'],
    }
    found = {entry.key: entry.value for entry in written.metadata_props}
    assert len(json.loads(found['classes'])) == classes and json.loads(found['classes'])[0] == 'grass'
    assert json.loads(found['mean']) == list(cfg.model.data_preprocessor.mean)
    assert json.loads(found['std']) == list(cfg.model.data_preprocessor.std)
    assert found['channel_order'] == 'RGB'
    assert found['checkpoint'] == str(checkpoint) and found['config'] == 'config.py'


def test_the_suffix_names_the_format_and_the_file_is_compared(
    call_tool: Callable[..., subprocess.CompletedProcess], tiny: tuple[Path, Path, Config], tmp_path: Path
) -> None:
    config, checkpoint, _ = tiny
    result = call_tool('export_onnx.py', config, checkpoint, tmp_path / 'model.pt', '--dynamic', '--size', '64')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('largest relative difference') == 4  # --verify is the default
    assert torch.jit.load(tmp_path / 'model.pt')(torch.zeros(1, 3, 72, 100)).shape == (1, 9, 72, 100)
    result = call_tool('export_onnx.py', config, checkpoint, tmp_path / 'b.pt', '--size', '64', '--no-verify')
    assert result.returncode == 0 and result.stdout.endswith(f'written to {tmp_path / "b.pt"}\n')
    assert 'difference' not in result.stdout
