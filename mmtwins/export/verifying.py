"""Compare an exported file in its runtime with the model in PyTorch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .runtimes import as_list, open_file

TOLERANCE = 1e-3  # of outputs, relative to the largest value


def verify(
    model: nn.Module, path: str | Path, shapes: Sequence[tuple[int, int, int, int]], format_: str = 'onnx'
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Compare a file in its runtime with the model in PyTorch.

    Args:
        model: What was exported.
        path: The file.
        shapes: (B, C, H, W) of random images.
        format_: A key of :data:`mmtwins.export.FORMATS`.

    Yields:
        Each shape with the largest difference of any output, relative to the largest value of that output.

    Raises:
        ImportError: The runtime is not installed.
        ValueError: A difference is larger than :data:`TOLERANCE`, or the file does not take the shape.
    """
    if not shapes:
        return
    run = open_file(path, format_)
    for shape in shapes:
        images = torch.randn(shape)
        with torch.no_grad():
            expected = [maps.cpu() for maps in as_list(model(images.to(next(model.parameters()).device)))]
        try:
            outputs = run(images)
        except Exception as error:  # runtimes have no common class that they document
            raise ValueError(f'{path} does not run on {shape}: {error}') from error
        try:
            difference = largest_difference(outputs, expected)
        except ValueError as error:
            raise ValueError(f'{path} gives {error}, for {shape}') from None
        if not difference <= TOLERANCE:
            raise ValueError(
                f'{path} differs by {difference:.2g} on {shape}, more than {TOLERANCE:g} of the largest value'
            )
        yield shape, difference


def verify_onnx(
    model: nn.Module, path: str | Path, shapes: Sequence[tuple[int, int, int, int]]
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Compare an ONNX file in ONNX Runtime with the model in PyTorch, see :func:`verify`."""
    yield from verify(model, path, shapes)


def largest_difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any output, relative to the largest value of that output.

    Args:
        outputs: Of a file.
        expected: Of the model, as many.

    Returns:
        The difference; NaN or infinite if an output is.

    Raises:
        ValueError: Number or shapes differ; the message says how.
    """
    if len(outputs) != len(expected):
        raise ValueError(f'{len(outputs)} outputs, not {len(expected)}')
    found = []
    for actual, wanted in zip(outputs, expected, strict=True):
        if actual.shape != wanted.shape:
            raise ValueError(f'{tuple(actual.shape)}, not {tuple(wanted.shape)}')
        found.append((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    return float(torch.stack(found).max())
