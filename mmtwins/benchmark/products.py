"""The fastest product of matrices that the machine has, which says how much of it a model uses."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .task import PRECISIONS, Task

# Rows, columns of the result, and what is summed over: squares, and products of the stages of Twins-SVT-S.
SHAPES = (
    (2048, 2048, 2048),
    (1024, 1024, 1024),
    (16384, 256, 64),
    (4096, 512, 128),
    (4096, 1024, 256),
    (2048, 2048, 512),
)
GPU_SHAPES = ((8192, 8192, 8192), (4096, 4096, 4096), (65536, 512, 512), (65536, 256, 64), (16384, 2048, 512))


class Product(NamedTuple):
    """A product of matrices: how it is computed, by which library, and its (rows, columns, summands)."""

    operator: str
    library: str
    shape: tuple[int, int, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiplication and addition."""
        rows, columns, summands = self.shape
        return 2 * rows * columns * summands

    def __str__(self) -> str:
        return f'{self.operator} of {self.library}, {" x ".join(map(str, self.shape))}'


class Rate(NamedTuple):
    """The fastest product of some, and its rate in FLOP/s."""

    product: Product
    flops: float

    def __str__(self) -> str:
        return f'{self.flops / 1e9:.0f} GFLOP/s ({self.product})'


def product_steps(task: Task, shapes: tuple[tuple[int, int, int], ...] | None = None) -> dict[Product, Callable]:
    """Products to time beside a task, each as a matrix product of each library and as a 1 x 1 convolution.

    Args:
        task: Its device and precision are taken.
        shapes: (rows, columns, summands); by default some that are fast, as large as the device asks for.

    Returns:
        Functions without arguments by product.
    """
    steps: dict[Product, Callable] = {}
    for shape in shapes or (GPU_SHAPES if task.is_on_gpu else SHAPES):
        rows, columns, summands = shape
        make = partial(torch.randn, device=task.device, dtype=PRECISIONS[task.precision])
        x, weight = make(rows, summands), make(columns, summands)
        has_onednn = not task.is_on_gpu and torch.backends.mkldnn.is_available()
        steps[Product('matrix product', _blas(task), shape)] = partial(F.linear, x, weight)
        if has_onednn and task.precision == 'fp32':  # in bfloat16, F.linear is this product
            product = partial(torch.ops.mkldnn._linear_pointwise, x, weight, None, 'none', [], '')
            steps[Product('matrix product', 'oneDNN', shape)] = product
        library = 'cuDNN' if task.is_on_gpu else 'oneDNN' if has_onednn else 'PyTorch'
        steps[Product('1 x 1 convolution', library, shape)] = partial(_convolve, x, weight)
    return steps


def fastest_product(seconds: dict[Product, tuple[float, ...]]) -> Rate:
    """The product with the highest rate, by its fastest round.

    Args:
        seconds: Of each round, by product.

    Returns:
        The product and its rate.
    """
    return max((Rate(product, product.flops / min(times)) for product, times in seconds.items()), key=lambda r: r.flops)


@torch.no_grad()
def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    # A dilated convolution is handed to oneDNN with any number of threads. For a kernel of 1 x 1 it is the same.
    return F.conv2d(x.view(1, 1, *x.shape).permute(0, 3, 1, 2), weight[:, :, None, None], dilation=2)


def _blas(task: Task) -> str:
    """The library that PyTorch multiplies matrices with."""
    if task.is_on_gpu:
        return 'cuBLAS'
    if task.precision != 'fp32' and torch.backends.mkldnn.is_available():
        return 'oneDNN'
    found = re.search(r'BLAS_INFO=(\w+)', torch.__config__.show())
    names = {'mkl': 'MKL', 'open': 'OpenBLAS', 'openblas': 'OpenBLAS', 'accelerate': 'Accelerate'}
    return names.get(found[1], found[1]) if found else 'BLAS'
