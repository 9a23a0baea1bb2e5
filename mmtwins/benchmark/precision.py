"""How a GPU multiplies float32 numbers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .task import Task


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Let a GPU multiply float32 numbers in TF32 for ``'tf32'``, and exactly for all other precisions.

    PyTorch by default takes TF32 for convolutions alone.

    Args:
        precision: A key of :data:`mmtwins.benchmark.task.PRECISIONS`.
    """
    libraries: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [library.allow_tf32 for library in libraries]
    try:
        for library in libraries:
            library.allow_tf32 = precision == 'tf32'
        yield
    finally:
        for library, allowed in zip(libraries, before):
            library.allow_tf32 = allowed


def with_precision(tasks: Iterable[Task]) -> Iterator[Task]:
    """Iterate over tasks; each runs with products in its precision, see :func:`products_in`."""
    for task in tasks:
        with products_in(task.precision):
            yield task
