"""What the fast path computes with: matrix products through oneDNN, and large maps in parts that stay in the cache.

Constants are the fastest of a range measured with PyTorch 2.13 on two threads of an AMD EPYC (AVX-512, 1 MiB of L2 cache per
core), as ``mmtwins benchmark`` measures; the ranges stand beside them. They change speed only.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.grad import conv2d_weight
from torch.utils.checkpoint import checkpoint

from .attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from .layers import Mlp
from .threads import fit_backward
from .windows import Region, as_pair, merge_windows, padding_attends, partition_windows, window_regions

BAND_ELEMENTS = 2**21  # of the widest tensor in a band: 8 MiB in float32; tried 1 to 8 MiB
HAS_KERNELS = torch.backends.cpu.get_cpu_capability().startswith('AVX')  # of oneDNN, AVX2 or AVX-512
FEW_TOKENS = 512  # up to here, a product gives the gradient of weights faster than a convolution; tried 256 to 67,200
MIN_ELEMENTS = 20480  # PyTorch does not hand 1 x 1 convolutions of fewer elements to oneDNN


def run_mlp(mlp: Mlp, x: Tensor, saves_memory: bool = False) -> Tensor:
    """An MLP on (B, H, W, C), with GELU computed again in the backward pass instead of kept.

    Args:
        mlp: The module; dropout is not at work.
        x: Feature map.
        saves_memory: With a gradient, keep x alone and compute each band again.

    Returns:
        (B, H, W, C).
    """

    def run(x: Tensor) -> Tensor:
        hidden = linear(x, mlp.fc1.weight, mlp.fc1.bias)
        if torch.is_grad_enabled():
            return GeluLinear.apply(hidden, mlp.fc2.weight, mlp.fc2.bias)
        return linear(torch.ops.aten.gelu_(hidden), mlp.fc2.weight, mlp.fc2.bias)

    if torch.is_grad_enabled() and not saves_memory:
        return run(x)
    return in_bands(run, x, num_channels=mlp.fc1.out_features)


def attend_locally(attn: LocallyGroupedSelfAttention, x: Tensor) -> Tensor:
    """Local attention on (B, H, W, C): tokens are ordered by window once, and no padding token is projected."""
    size = as_pair(attn.window_size)
    area = size[0] * size[1]
    attends = padding_attends(attn.window_padding, x.shape[1], x.shape[2], size)

    def run(band: Tensor) -> Tensor:
        regions = window_regions(band.shape[1], band.shape[2], size)
        tokens = linear(OrderByWindow.apply(band, regions), attn.qkv.weight, attn.qkv.bias)
        outs = []
        for region, qkv in zip(regions, tokens.split([len(band) * r.num_tokens for r in regions]), strict=True):
            num_tokens = region.side_h * region.side_w
            qkv = qkv.unflatten(0, (-1, num_tokens)).unflatten(2, (3, attn.num_heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (windows, heads, N, d)
            if attends and num_tokens < area:
                k, v = _append_padding(k, v, attn.qkv.bias, area - num_tokens)
            # The gradient of the fused kernel is slow in half precision.
            attend = _attend_unfused if q.dtype != torch.float32 and q.requires_grad else scaled_dot_product_attention
            outs.append(attend(q, k, v).transpose(1, 2).flatten(2))
        return linear(OrderByMap.apply(band.shape, regions, *outs), attn.proj.weight, attn.proj.bias)

    if torch.is_grad_enabled():
        return run(x)
    return in_bands(run, x, num_channels=3 * x.shape[3], multiple=size[0])


def attend_globally(attn: GlobalSubsampledAttention, x: Tensor) -> Tensor:
    """Global sub-sampled attention on (B, H, W, C)."""
    heads, head_dim = attn.num_heads, x.shape[3] // attn.num_heads
    kv = linear(attn.summarise(x), attn.kv.weight, attn.kv.bias).view(len(x), -1, 2, heads, head_dim)
    k, v = kv.permute(2, 0, 3, 1, 4)  # (B, heads, M, d)

    def run(band: Tensor) -> Tensor:
        q = linear(band, attn.q.weight, attn.q.bias).flatten(1, 2).unflatten(2, (heads, head_dim)).transpose(1, 2)
        out = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(band.shape)
        return linear(out, attn.proj.weight, attn.proj.bias)

    if torch.is_grad_enabled():
        return run(x)
    return in_bands(run, x, num_channels=2 * x.shape[3])


# Products -------------------------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, in float32 by oneDNN where that is the faster of the same two sums.

    PyTorch hands a matrix product in float32 to its BLAS. The BLAS of the published wheels is MKL, which has its best kernels for
    one vendor's processors only; oneDNN has AVX2 and AVX-512 kernels for all. PyTorch's own product by oneDNN has no gradient and
    no autocast. With these, a 1 x 1 convolution is the same product.
    """
    if not runs_on_onednn(x, weight):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled() and autocast_dtype() is None and not _is_transformed(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
    # PyTorch hands a convolution of one thread to oneDNN only if it is dilated, which a 1 x 1 kernel cannot show.
    out = F.conv2d(_as_map(x), weight[:, :, None, None], bias, dilation=2)
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))


def runs_on_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear` computes a product by oneDNN."""
    return x.dtype == weight.dtype == torch.float32 and x.numel() > MIN_ELEMENTS and HAS_KERNELS


def autocast_dtype() -> torch.dtype | None:
    """The type of autocast on CPUs; None outside autocast."""
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None  # before torch 2.4


def _as_map(x: Tensor) -> Tensor:
    """Tokens (..., C) as a channels-last map (1, C, 1, N), without a copy where they are contiguous."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


def _as_rows(x: Tensor) -> Tensor:
    """(..., C) -> (N, C); not ``flatten``, which the vmap of ``is_grads_batched`` lacks."""
    return x.reshape(-1, x.shape[-1])


class GeluLinear(torch.autograd.Function):
    """``F.linear(F.gelu(x), weight, bias)`` that keeps x alone for the gradient; can be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        fit_backward()
        x, weight = ctx.saved_tensors
        gelu = F.gelu(x)
        if runs_on_onednn(x, weight) and x.shape[:-1].numel() > FEW_TOKENS:
            grad_weight = conv2d_weight(_as_map(gelu), [*weight.shape, 1, 1], _as_map(grad), dilation=2)
            grad_weight = grad_weight.view(weight.shape)
        else:
            grad_weight = (_as_rows(grad).T @ _as_rows(gelu)).to(weight.dtype)
        grad_x = torch.ops.aten.gelu_backward(linear(grad, weight.T.to(grad.dtype)), x)
        grad_bias = _as_rows(grad).sum(0).to(weight.dtype) if ctx.has_bias else None
        return grad_x, grad_weight, grad_bias


# Parts that stay in the cache -----------------------------------------------------------------------------------------


def in_bands(function: Callable[..., Tensor], *maps: Tensor, num_channels: int, multiple: int = 1) -> Tensor:
    """Apply a function to feature maps by bands of rows; with a gradient, each band is computed again for it.

    What the function computes in between stays in the cache, and in memory that needs no page faults.

    Args:
        function: From (B, h, W, C) each to (B, h, W, C), row by row of what it is given.
        maps: Feature maps, (B, H, W, C).
        num_channels: Channels of the widest tensor that the function computes in between.
        multiple: Rows that belong together; a band has a multiple of them.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, _ = maps[0].shape
    units = math.ceil(height / multiple)
    num_bands = math.ceil(units / max(1, BAND_ELEMENTS // (batch * width * num_channels * multiple)))
    if num_bands == 1:
        return function(*maps)
    rows = math.ceil(units / num_bands) * multiple  # bands of about equal height: products of few tokens are slow
    bands = zip(*(x.split(rows, dim=1) for x in maps), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, *band, use_reentrant=False) for band in bands], dim=1)
    out = torch.empty_like(maps[0])
    for band, target in zip(bands, out.split(rows, dim=1), strict=True):
        target.copy_(function(*band))
    return out


# Windows --------------------------------------------------------------------------------------------------------------


def _append_padding(k: Tensor, v: Tensor, bias: Tensor | None, num_padding: int) -> tuple[Tensor, Tensor]:
    """Append keys and values of zero tokens, which are the bias of qkv: (windows, heads, N, d) -> N + ``num_padding``."""
    windows, heads, _, head_dim = k.shape
    shape = (windows, heads, num_padding, head_dim)
    if bias is None:
        padding = k.new_zeros(shape)
        return torch.cat([k, padding], dim=2), torch.cat([v, padding], dim=2)
    _, key, value = bias.to(k.dtype).view(3, 1, heads, 1, head_dim)
    return torch.cat([k, key.expand(shape)], dim=2), torch.cat([v, value.expand(shape)], dim=2)


def _attend_unfused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` for few keys."""
    with torch.autocast(q.device.type, enabled=False):
        return torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1), dim=-1) @ v


def _order_by_window(x: Tensor, regions: Sequence[Region]) -> Tensor:
    tokens = x.new_empty(x.shape[:3].numel(), x.shape[3])
    start = 0
    for region in regions:
        windows = region.windows_of(x)
        length = len(x) * region.num_tokens
        tokens.narrow(0, start, length).view(windows.shape).copy_(windows)
        start += length
    return tokens


def _order_by_map(parts: Sequence[Tensor], regions: Sequence[Region], shape: Sequence[int]) -> Tensor:
    x = parts[0].new_empty(shape)
    for region, part in zip(regions, parts, strict=True):
        windows = region.windows_of(x)
        windows.copy_(part.view(windows.shape))
    return x


def has_transforms() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_transformed(x: Tensor) -> bool:
    """Whether a tensor belongs to ``vmap``, forward mode or the like, which lack rules for functions of this module."""
    if has_transforms():
        return True
    if hasattr(torch._C._functorch, 'is_legacy_batchedtensor'):
        return torch._C._functorch.is_legacy_batchedtensor(x)
    return ' Batched' in torch._C._dispatch_key_set(x)  # torch 2.1


class OrderByWindow(torch.autograd.Function):
    """(B, H, W, C) to tokens (B * H * W, C), region after region and window after window, in one pass over memory.

    Written as plain operations, the forward and the backward pass would copy twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, regions: Sequence[Region]) -> Tensor:
        ctx.shape, ctx.regions = x.shape, regions
        return _order_by_window(x, regions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        parts = grad.split([ctx.shape[0] * region.num_tokens for region in ctx.regions])
        if _is_transformed(grad):
            windows = [p.view(-1, r.side_h * r.side_w, p.shape[1]) for p, r in zip(parts, ctx.regions, strict=True)]
            return merge_windows(windows, ctx.regions), None
        return OrderByMap.apply(ctx.shape, ctx.regions, *parts), None


class OrderByMap(torch.autograd.Function):
    """The windows of each region, in any shape, to (B, H, W, C): the inverse of :class:`OrderByWindow`."""

    @staticmethod
    def forward(ctx: Any, shape: torch.Size, regions: Sequence[Region], *parts: Tensor) -> Tensor:
        ctx.part_shapes, ctx.regions = [part.shape for part in parts], regions
        return _order_by_map(parts, regions, shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if _is_transformed(grad):
            tokens = torch.cat([_as_rows(partition_windows(grad, region)) for region in ctx.regions])
        else:
            tokens = OrderByWindow.apply(grad, ctx.regions)
        lengths = [len(grad) * region.num_tokens for region in ctx.regions]
        parts = zip(tokens.split(lengths), ctx.part_shapes, strict=True)
        return None, None, *(part.view(shape) for part, shape in parts)
