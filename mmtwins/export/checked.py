"""Export a model: write it, compare the file with the model, quantise it, and only then put it where it was asked for."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .detectors import compare_detector, write_detector
from .exportable import is_detector
from .int8 import agreement, calibration_images, check_agreement, quantize
from .runtimes import open_file, write_file
from .tensorrt import write_tensorrt_script
from .verifying import verify


class Plan(NamedTuple):
    """What to export.

    Attributes:
        format: A key of :data:`mmtwins.export.FORMATS`.
        height: Of the images to trace, in pixels.
        width: Of the images to trace, in pixels.
        channels: Of the images.
        dynamic: Whether the file takes any batch, height and width.
        sizes: Batch, height and width of images to compare the results on; none compares nothing.
        int8: Whether to quantise to int8.
        images: Image files, to calibrate ``int8`` with or to compare a detector on.
    """

    format: str
    height: int
    width: int
    channels: int = 3
    dynamic: bool = True
    sizes: tuple[tuple[int, int, int], ...] = ()
    int8: bool = False
    images: tuple[str, ...] = ()


def export(
    model: nn.Module,
    out: str | Path,
    plan: Plan,
    metadata: Mapping[str, str],
    with_tensorrt: bool = False,
    step: Callable[[], None] = lambda: None,
) -> list[str]:
    """Export a model. If anything fails, no file is left and no file of that name is changed.

    Args:
        model: As :func:`mmtwins.export.build_exportable` returns it.
        out: File to write.
        plan: What to write.
        metadata: Written into the file, see :func:`mmtwins.export.describe`.
        with_tensorrt: Also write a script beside it, see :func:`mmtwins.export.tensorrt.write_tensorrt_script`.
        step: Called after each step: the file, each comparison, and for int8 the file and its comparison.

    Returns:
        Lines that say how the file compares with the model.

    Raises:
        ImportError: A package is not installed.
        ValueError: The file differs from the model, or the size is too small to trace.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export-') as folder:
        file = Path(folder, 'written', out.name)  # large weights lie beside it, under its name
        if is_detector(model):
            lines += _write_detector(model, file, plan, metadata, step)
        else:
            lines += _write(model, file, plan, metadata, step)
        if plan.int8:
            file, line = _to_int8(model, file, Path(folder, 'int8', out.name), plan, metadata, step)
            lines.append(line)
        if with_tensorrt:
            script = file.parent / f'{out.stem}_tensorrt.py'
            write_tensorrt_script(script, out.name, plan.height, plan.width, plan.channels, plan.dynamic)
            compile(script.read_text(encoding='utf-8'), script.name, 'exec')
            lines.append(
                f'{out.with_name(script.name)} builds a TensorRT engine; its syntax was checked, it was not run'
            )
        for written in file.parent.iterdir():
            os.replace(written, out.with_name(written.name))
    return lines


def _write(
    model: nn.Module, file: Path, plan: Plan, metadata: Mapping[str, str], step: Callable[[], None]
) -> Iterator[str]:
    write_file(model, file, plan.format, plan.height, plan.width, plan.channels, plan.dynamic, metadata)
    step()
    shapes = [(batch, plan.channels, height, width) for batch, height, width in plan.sizes]
    for shape, difference in verify(model, file, shapes, plan.format):
        yield f'{" x ".join(map(str, shape))}: largest relative difference {difference:.1e}'
        step()


def _write_detector(
    model: nn.Module, file: Path, plan: Plan, metadata: Mapping[str, str], step: Callable[[], None]
) -> Iterator[str]:
    if not plan.format.startswith('onnx') or plan.int8:
        raise ValueError('all of a detector can be exported to ONNX in float32 only: choose that, or --neck')
    write_detector(model, file, plan.height, plan.width, plan.dynamic, metadata)
    step()
    if not plan.sizes:
        return
    model.cpu()
    run = open_file(file, 'onnx')
    given = [torch.from_numpy(image) for image in calibration_images(plan.images, plan.height, plan.width, metadata)]
    found = 0
    for images in (*given, *(torch.randn(1, plan.channels, *size) for _, *size in plan.sizes)):
        number = compare_detector(model, run, images)
        found += number
        yield f'{" x ".join(map(str, images.shape))}: the same {number} objects'
        step()
    if not found:
        raise ValueError(
            'there is no object in the images, so nothing was compared: give --calibrate IMAGES with objects, or '
            '--no-verify'
        )


def _to_int8(
    model: nn.Module, source: Path, target: Path, plan: Plan, metadata: Mapping[str, str], step: Callable[[], None]
) -> tuple[Path, str]:
    target.parent.mkdir()
    quantize(source, target, calibration_images(plan.images, plan.height, plan.width, metadata))
    step()
    images = calibration_images(plan.images, plan.height, plan.width, metadata)
    device = next(model.parameters()).device
    share = agreement(model.cpu(), open_file(target, 'onnx'), images)
    model.to(device)
    check_agreement(share, len(plan.images))
    step()
    what = 'share of pixels with the same class' if hasattr(model, 'decode_head') else 'least cosine of a map'
    return target, f'int8, {len(plan.images)} calibration images: {what} {share:.3f}'
