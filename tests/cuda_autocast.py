"""CUDA's autocast to float16 on a CPU, whose own autocast has other lists and lacks operators for float16.

A product or convolution takes arguments rounded to float16, adds up in float32 and rounds the result, as tensor cores do.
The lists are those of PyTorch 2.13 (``ATen/autocast_mode.h``), by the names of the Python functions.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.utils import digit_version
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

NAMES = {
    torch.float16: """
        conv1d conv2d conv3d conv_transpose2d prelu addmm addmv addr matmul __matmul__ __rmatmul__ einsum mm mv linear addbmm
        baddbmm bmm scaled_dot_product_attention
    """,
    torch.float32: """
        acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ __rtruediv__
        softplus layer_norm group_norm norm cosine_similarity nll_loss cross_entropy l1_loss smooth_l1_loss mse_loss kl_div
        binary_cross_entropy_with_logits cdist logsumexp interpolate prod softmax log_softmax cumprod cumsum sum
    """,
    'the widest': 'addcdiv addcmul atan2 bilinear cross dot grid_sample index_put tensordot scatter_add',
}
TYPES = {name: dtype for dtype, names in NAMES.items() for name in names.split()}


needs_half = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.3.0'),
    reason='before PyTorch 2.3, CPUs have no float16 autocast',
)


class CudaAutocast(TorchFunctionMode):
    """Acts while ``torch.autocast('cpu')`` is enabled, so that a part of a step can leave it as on a GPU.

    ``with torch.autocast('cpu', torch.float16), CudaAutocast():`` runs a step.
    """

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled('cpu'):
            return function(*args, **kwargs)
        dtype = TYPES.get(getattr(function, '__name__', ''))
        with torch.autocast('cpu', enabled=False):
            if dtype == torch.float16:
                args, kwargs = tree_map(lambda x: _cast(_cast(x, torch.float16), torch.float32), (args, kwargs))
                return tree_map(lambda x: _cast(x, torch.float16), function(*args, **kwargs))
            if dtype == torch.float32 or (dtype == 'the widest' and torch.float32 in _types(args)):
                args, kwargs = tree_map(lambda x: _cast(x, torch.float32), (args, kwargs))
            return function(*args, **kwargs)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x


def _types(args: tuple) -> set[torch.dtype]:
    return {x.dtype for x in tree_flatten(args)[0] if isinstance(x, Tensor)}
