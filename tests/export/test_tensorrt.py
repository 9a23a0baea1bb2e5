"""The script for TensorRT: it compiles, and with a stand-in for TensorRT it builds what was asked for."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmtwins.export.tensorrt import write_tensorrt_script


class StandIn:
    """Takes every call of TensorRT, and notes the shapes."""

    def __init__(self, shape: tuple[int, ...], parses: bool = True, engine: bytes | None = b'engine') -> None:
        self.noted: dict[str, Any] = {}
        network = SimpleNamespace(get_input=lambda i: SimpleNamespace(shape=shape, name='images'))
        profile = SimpleNamespace(set_shape=lambda *shapes: self.noted.update(profile=shapes))
        config = SimpleNamespace(
            set_memory_pool_limit=lambda kind, size: self.noted.update(workspace=size),
            set_flag=lambda flag: self.noted.update(flag=flag),
            add_optimization_profile=lambda given: self.noted.update(added=given is profile),
        )
        builder = SimpleNamespace(
            create_network=lambda flags: network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda *given: engine,
        )
        parser = SimpleNamespace(
            parse_from_file=lambda path: self.noted.update(onnx=path) or parses,
            num_errors=1,
            get_error=lambda i: 'no such operator',
        )
        self.Logger = type('Logger', (), {'WARNING': 1, '__init__': lambda self, level: None})
        self.Builder, self.OnnxParser = lambda logger: builder, lambda network, logger: parser
        self.MemoryPoolType, self.BuilderFlag = SimpleNamespace(WORKSPACE=0), SimpleNamespace(FP16='fp16')


def run(script: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setitem(sys.modules, 'tensorrt', stand_in)
    monkeypatch.setattr(sys, 'argv', [str(script), *arguments])
    runpy.run_path(str(script), run_name='__main__')


def test_the_script_compiles_and_builds_an_engine_for_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / 'build.py'
    write_tensorrt_script(script, 'elsewhere/model.onnx', 512, 640)
    text = script.read_text()
    compile(text, 'build.py', 'exec')
    assert 'NOT RUN' in text and '@' not in text
    flags = '--minShapes=images:1x3x64x64 --optShapes=images:1x3x512x640 --maxShapes=images:4x3x1024x1280'
    assert f'trtexec --onnx=model.onnx --saveEngine=model.engine {flags}\n' in text
    stand_in = StandIn((-1, 3, -1, -1))
    run(script, stand_in, monkeypatch, '--fp16')
    assert stand_in.noted['profile'] == ('images', (1, 3, 64, 64), (1, 3, 512, 640), (4, 3, 1024, 1280))
    assert stand_in.noted['added'] and stand_in.noted['flag'] == 'fp16' and stand_in.noted['workspace'] == 4 * 2**30
    assert stand_in.noted['onnx'] == str(tmp_path / 'model.onnx')
    assert (tmp_path / 'model.engine').read_bytes() == b'engine'


def test_an_engine_for_one_size_has_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensorrt_script(tmp_path / 'build.py', 'model.onnx', 512, 640, dynamic=False)
    assert 'trtexec --onnx=model.onnx --saveEngine=model.engine\n' in (tmp_path / 'build.py').read_text()
    stand_in = StandIn((1, 3, 512, 640))
    run(tmp_path / 'build.py', stand_in, monkeypatch, '--out', str(tmp_path / 'b.engine'))
    assert 'profile' not in stand_in.noted and (tmp_path / 'b.engine').is_file()


@pytest.mark.parametrize(
    ('stand_in', 'message'),
    [
        (StandIn((1, 3, 64, 64), parses=False), 'no such operator'),
        (StandIn((1, 3, 64, 64), engine=None), 'TensorRT built no engine'),
    ],
)
def test_what_tensorrt_cannot_build_is_said(
    stand_in: StandIn, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensorrt_script(tmp_path / 'build.py', 'model.onnx', 64, 64)
    with pytest.raises(SystemExit, match=message):
        run(tmp_path / 'build.py', stand_in, monkeypatch)
