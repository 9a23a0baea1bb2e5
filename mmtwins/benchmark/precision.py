"""The precision that products are computed in: autocast, and how a GPU multiplies float32 numbers."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .task import PRECISIONS, Task


def autocast_to(precision: str, device: str) -> AbstractContextManager:
    """Autocast on a device; nothing for float32.

    Args:
        precision: A key of :data:`mmtwins.benchmark.task.PRECISIONS`.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
    """
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is torch.float32 else torch.autocast(torch.device(device).type, dtype)


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
