"""The formats of exported files: how each is written, and how its runtime runs it."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..engine.console import only_errors
from ..installing import how_to_install
from .exportable import name_outputs

OPSET = 18  # the least that PyTorch's exporter writes
LEGACY_OPSET = 17  # the newest that the older one writes without conversion
MIN_SIDE = 64  # of an image to trace, in pixels: sizes of 1 would be taken for constants
AXES = {0: 'batch', 2: 'height', 3: 'width'}
METADATA = 'mmtwins.json'  # name of the metadata in files of PyTorch
# Before torch 2.5, there was one exporter of ONNX, and no argument to choose it by.
OLDER_EXPORTER: dict[str, Any] = {'dynamo': False} if 'dynamo' in signature(torch.onnx.export).parameters else {}
Runner = Callable[[Tensor], list[Tensor]]


class Traced(NamedTuple):
    """What an exporter traces.

    Attributes:
        images: Random images, (B, C, H, W).
        dynamic: Whether the file takes any batch, height and width.
        metadata: Written into the file, see :func:`mmtwins.export.describe`.
    """

    images: Tensor
    dynamic: bool
    metadata: Mapping[str, str]


class Format(NamedTuple):
    """A format of files.

    Attributes:
        title: Its name in words.
        suffix: Of its files.
        needs: Packages that write it.
        runs: Packages that run it.
        write: Writes a model to a file.
        read: Gives a function that runs the file, on as many threads as PyTorch has.
        torch: The oldest that writes and reads it.
    """

    title: str
    suffix: str
    needs: tuple[str, ...]
    runs: tuple[str, ...]
    write: Callable[[nn.Module, Path, Traced], None]
    read: Callable[[Path], Runner]
    torch: str = '2.1'


def write_file(
    model: nn.Module,
    path: str | Path,
    format_: str,
    height: int,
    width: int,
    channels: int = 3,
    dynamic: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model from images to maps for another runtime.

    The input is called ``images``; for the outputs see :func:`mmtwins.export.exportable.name_outputs`. Axes of any size are
    called ``batch``, ``height`` and ``width``. TorchScript and the older ONNX exporter have one trace of the model; it takes
    any size too.

    Args:
        model: In eval mode.
        path: File to write. Large weights of ONNX go beside it, into a file of the same name that ends in .data; those of
            OpenVINO into one that ends in .bin.
        format_: A key of :data:`FORMATS`.
        height: Of the images to trace, in pixels.
        width: Of the images to trace, in pixels.
        channels: Of the images.
        dynamic: Whether the file takes any batch, height and width.
        metadata: Written into the file, see :func:`mmtwins.export.describe`.

    Raises:
        ImportError: A package is not installed, or torch is too old for the format.
        ValueError: The format is unknown, or the size is too small to trace.
    """
    oldest = format_of(format_).torch
    if torch.__version__ < oldest:  # no plain text: it compares numbers
        others = ', '.join(name for name, one in FORMATS.items() if one.torch < oldest)
        raise ImportError(f'{format_} needs torch {oldest} or newer, and here is {torch.__version__}: choose {others}')
    require(*FORMATS[format_].needs)
    if dynamic and min(height, width) < MIN_SIDE:
        raise ValueError(f'{height} x {width} pixels are too small to trace: give at least {MIN_SIDE} x {MIN_SIDE}')
    images = torch.randn(2 if dynamic else 1, channels, height, width, device=next(model.parameters()).device)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), _without_notes():
        FORMATS[format_].write(model, Path(path), Traced(images, dynamic, metadata or {}))


def export_onnx(
    model: nn.Module,
    path: str | Path,
    height: int,
    width: int,
    channels: int = 3,
    dynamic: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model from images to maps as ONNX, see :func:`write_file`."""
    write_file(model, path, 'onnx', height, width, channels, dynamic, metadata)


def open_file(path: str | Path, format_: str) -> Runner:
    """Load a file into its runtime, on the CPU.

    Args:
        path: The file.
        format_: A key of :data:`FORMATS`.

    Returns:
        A function from images (B, C, H, W) to all outputs.

    Raises:
        ImportError: The runtime is not installed.
        ValueError: The format is unknown.
    """
    require(*format_of(format_).runs)
    return FORMATS[format_].read(Path(path))


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in FORMATS:
        raise ValueError(f'{name} is no format: choose one of {", ".join(FORMATS)}')
    return FORMATS[name]


def require(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        ImportError: One is not; the message says how to get it.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        extra = 'openvino' if 'openvino' in missing else 'export'
        raise ImportError(f'{", ".join(missing)} is not installed: {how_to_install(extra)}')


def _write_onnx(model: nn.Module, path: Path, traced: Traced) -> None:
    program = torch.onnx.export(
        model,
        (traced.images,),
        dynamo=True,
        dynamic_shapes=(AXES,) if traced.dynamic else None,
        opset_version=OPSET,
        input_names=['images'],
        output_names=_outputs_of(model, traced),
        verbose=False,
    )
    assert program is not None  # as it is without dynamo=True
    program.model.metadata_props.update(traced.metadata)
    program.save(str(path))


def _write_legacy_onnx(model: nn.Module, path: Path, traced: Traced) -> None:
    names = _outputs_of(model, traced)
    torch.onnx.export(
        model,
        (traced.images,),
        str(path),
        **OLDER_EXPORTER,
        opset_version=LEGACY_OPSET,
        input_names=['images'],
        output_names=names,
        dynamic_axes=dict.fromkeys(('images', *names), AXES) if traced.dynamic else None,
    )
    note_metadata(path, traced.metadata)


def note_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write metadata into an ONNX file that is there."""
    import onnx

    written = onnx.load(str(path))
    onnx.helper.set_model_props(written, dict(metadata))
    onnx.save(written, str(path))


def _read_onnx(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {name: images.numpy()})]


def _write_openvino(model: nn.Module, path: Path, traced: Traced) -> None:
    import openvino

    program = torch.jit.trace(model, traced.images, check_trace=False)
    converted = openvino.convert_model(program, example_input=traced.images)
    channels = traced.images.shape[1]
    converted.reshape([-1, channels, -1, -1] if traced.dynamic else list(traced.images.shape))
    for port, name in zip(
        (converted.inputs[0], *converted.outputs), ('images', *_outputs_of(model, traced)), strict=True
    ):
        port.get_tensor().set_names({name})
    for key, value in traced.metadata.items():
        converted.set_rt_info(value, ['mmtwins', key])
    openvino.save_model(converted, path, compress_to_fp16=False)


def _read_openvino(path: Path) -> Runner:
    import openvino

    # Without the hint, it computes in bfloat16 where the CPU has units for it.
    settings = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, 'CPU', settings)

    def run(images: Tensor) -> list[Tensor]:
        found = compiled(images.numpy())
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    return run


def _write_torchscript(model: nn.Module, path: Path, traced: Traced) -> None:
    program = torch.jit.trace(model, traced.images, check_trace=False)
    torch.jit.save(program, str(path), _extra_files={METADATA: json.dumps(dict(traced.metadata))})


def _read_torchscript(path: Path) -> Runner:
    return as_runner(torch.jit.load(str(path), map_location='cpu'))


def _write_torch_export(model: nn.Module, path: Path, traced: Traced) -> None:
    sizes = (dict.fromkeys(AXES, torch.export.Dim.DYNAMIC),) if traced.dynamic else None
    program = torch.export.export(model, (traced.images,), dynamic_shapes=sizes, strict=False)
    torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(traced.metadata))})


def _read_torch_export(path: Path) -> Runner:
    return as_runner(torch.export.load(path).module())


def as_runner(program: Callable[[Tensor], Any]) -> Runner:
    """What runs a model in PyTorch, as :func:`open_file` gives it for a file."""

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return as_list(program(images))

    return run


def as_list(outputs: Any) -> list[Tensor]:
    """What a model returns, as a list of tensors."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _outputs_of(model: nn.Module, traced: Traced) -> list[str]:
    return name_outputs(model, len(as_list(model(traced.images))))


@contextmanager
def _without_notes() -> Iterator[None]:
    """Silence what exporters say to their own developers: operators of torchvision, old calls, what a trace fixes."""
    names = ('torch.onnx._internal.exporter._registration', 'torch.export')
    with only_errors(*map(logging.getLogger, names)), warnings.catch_warnings():
        warnings.filterwarnings('ignore', r'`isinstance\(treespec, LeafSpec\)` is deprecated', FutureWarning)
        warnings.filterwarnings('ignore', category=torch.jit.TracerWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        yield


ONNX = ('onnx', 'onnxscript')
FORMATS = {
    'onnx': Format('ONNX', '.onnx', ONNX, ('onnxruntime',), _write_onnx, _read_onnx, '2.6'),
    'onnx-legacy': Format(
        'ONNX, TorchScript exporter', '.onnx', ('onnx',), ('onnxruntime',), _write_legacy_onnx, _read_onnx
    ),
    'openvino': Format('OpenVINO', '.xml', ('openvino',), ('openvino',), _write_openvino, _read_openvino),
    'torch-export': Format('torch.export', '.pt2', (), (), _write_torch_export, _read_torch_export, '2.6'),
    'torchscript': Format('TorchScript', '.pt', (), (), _write_torchscript, _read_torchscript),
}
