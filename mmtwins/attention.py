"""The two attention modules of Twins-SVT, on contiguous (B, H, W, C) tokens."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.grad import conv2d_weight
from torch.utils.checkpoint import checkpoint

MAX_BATCH = 65535  # of CUDA's fused attention kernels, which put the batch on a limited axis of their grid
BAND_ELEMENTS = 2**21  # of the widest tensor in a band: 8 MiB in float32, the least time of 1 to 8 MiB
CHUNK_ELEMENTS = 2**19  # at least, of the attention weights that a thread has at hand: 2 MiB in float32
MAX_CHUNK_ELEMENTS = 2**22  # of all threads: 16 MiB in float32
CHUNK_ROWS = 512  # at least, of these weights; oneDNN shares out fewer rows badly
WINDOW_PADDINGS = ('masked', 'zero', 'meituan')


class TokenLinear(nn.Linear):
    """``nn.Linear`` on (..., C) tokens, computed on CPUs in float32 as a 1 x 1 convolution.

    A matrix product and a 1 x 1 convolution are the same sum, but PyTorch hands the first to its BLAS (MKL in the
    published wheels, which has only a general code path for AMD processors) and the second to oneDNN, which has AVX-512
    kernels for every vendor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return token_linear(x, self.weight, self.bias)

    def after_gelu(self, x: Tensor) -> Tensor:
        """Of GELU(x), which is computed again for the gradient instead of kept; without a gradient x is overwritten."""
        if torch.compiler.is_compiling():
            return self(F.gelu(x))
        if torch.is_grad_enabled():
            return _GeluLinear.apply(x, self.weight, self.bias)
        return self(torch.ops.aten.gelu_(x))


def token_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` as :class:`TokenLinear` computes it."""
    if not _runs_on_onednn(x, weight):
        return F.linear(x, weight, bias)
    out = F.conv2d(_as_map(x), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))


def _runs_on_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and x.numel() > 20480  # PyTorch sends smaller 1 x 1 convolutions, and all on a single thread, elsewhere
        and torch.get_num_threads() > 1
    )


def _as_map(x: Tensor) -> Tensor:
    """Tokens (..., C) as a channels-last map (1, C, 1, N), without a copy where they are contiguous."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return token_linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            gelu = F.gelu(x)
        activation = gelu.detach()
        if _runs_on_onednn(x, weight):
            grad_weight = conv2d_weight(_as_map(activation), (*weight.shape, 1, 1), _as_map(grad)).view(weight.shape)
        else:
            grad_weight = (grad.flatten(0, -2).T @ activation.flatten(0, -2)).to(weight.dtype)
        (grad_x,) = torch.autograd.grad(gelu, x, token_linear(grad, weight.T.to(grad.dtype)))
        return grad_x, grad_weight, grad.flatten(0, -2).sum(0).to(weight.dtype)


class LocallyGroupedSelfAttention(nn.Module):
    """Multi-head self-attention inside non-overlapping square windows (LSA).

    Where the window side does not divide the feature map, the windows cut off by its right and bottom border
    attend as what they are, smaller windows; no mask and no padded token is ever built.

    Args:
        dim: Channels C of a token.
        num_heads: Attention heads; divides ``dim``.
        window_size: Side of a window, in tokens.
        window_padding: What the padding tokens, which would complete the windows at the border, do.

            - ``'masked'``: nothing; real tokens attend to the real tokens of their window.
            - ``'zero'``: they are zeros before the qkv projection and take part in the softmax, so that their
              keys and values are the projection's bias (public COCO code, timm).
            - ``'meituan'``: as ``'masked'``, but as ``'zero'`` where exactly one axis needs padding (public
              ADE20K code, whose mask covers everything then and so masks nothing).
        qkv_bias: Whether the qkv projection has a bias.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output.

    Source: Twins (arXiv:2104.13840), section 3.2; padding as in ``segmentation/gvt.py`` (``'meituan'``) and
    ``detection/gvt.py`` (``'zero'``) of the public code.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        window_padding: str = 'masked',
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.window_padding = window_padding
        self.attn_drop = attn_drop
        self.qkv = TokenLinear(dim, 3 * dim, bias=qkv_bias)
        self.proj = TokenLinear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows.

        Args:
            x: Feature map, (B, H, W, C), any H and W.

        Returns:
            (B, H, W, C).
        """
        if torch.compiler.is_compiling():
            return self._forward_padded(x)
        rest_h, rest_w = x.shape[1] % self.window_size, x.shape[2] % self.window_size
        padding_attends = self.window_padding == 'zero' or (
            self.window_padding == 'meituan' and (rest_h > 0) != (rest_w > 0)
        )
        return in_bands(
            lambda band: self._forward(band, padding_attends),
            x,
            num_channels=3 * x.shape[3],
            multiple=self.window_size,
        )

    def _forward(self, x: Tensor, padding_attends: bool) -> Tensor:
        regions = window_regions(*x.shape[1:3], self.window_size)
        windows = self.qkv(_Partition.apply(x, regions)).split([x.shape[0] * region.num_tokens for region in regions])
        outs = []
        for region, qkv in zip(regions, windows, strict=True):
            num_tokens = region.side_h * region.side_w
            q, k, v = self._split_heads(qkv.unflatten(0, (-1, num_tokens)))
            if padding_attends and num_tokens < self.window_size**2:
                k, v = self._append_padding(k, v, self.window_size**2 - num_tokens)
            outs.append(self._attend(q, k, v))
        return self.proj_drop(self.proj(_Merge.apply(x.shape, regions, *outs)))

    def _forward_padded(self, x: Tensor) -> Tensor:
        """The same by padding, mask and indices: no operation depends on the size, so that one graph serves all sizes."""
        batch, height, width, channels = x.shape
        size, area = self.window_size, self.window_size**2
        rows, columns = (height + size - 1) // size, (width + size - 1) // size
        # From each token of the windows to one of the map.
        window, inside = _divide(torch.arange(batch * rows * columns * area, device=x.device), area)
        image, window = _divide(window, rows * columns)
        (row, column), (inside_h, inside_w) = _divide(window, columns), _divide(inside, size)
        row, column = row * size + inside_h, column * size + inside_w
        is_real = (row < height) & (column < width)
        source = (image * height + row.clamp(max=height - 1)) * width + column.clamp(max=width - 1)
        tokens = x.flatten(0, 2).index_select(0, source)
        mask = None
        if self.window_padding != 'masked':
            tokens = tokens * is_real[:, None]
        if self.window_padding != 'zero':
            is_key = is_real
            if self.window_padding == 'meituan':
                pads_rows, pads_columns = (torch.scalar_tensor(n % size, device=x.device) > 0 for n in (height, width))
                is_key = is_real | (pads_rows ^ pads_columns)
            mask = is_key.unflatten(0, (batch * rows * columns, area))[:, None, None]  # (B * windows, 1, 1, N)
        qkv = self.qkv(tokens).unflatten(0, (batch * rows * columns, area))
        out = self._attend(*self._split_heads(qkv), mask).flatten(0, 1)
        # And back.
        row, column = _divide(torch.arange(batch * height * width, device=x.device), width)
        image, row = _divide(row, height)
        (row, inside_h), (column, inside_w) = _divide(row, size), _divide(column, size)
        window = (image * rows + row) * columns + column
        out = out.index_select(0, window * area + inside_h * size + inside_w)
        return self.proj_drop(self.proj(out).view(batch, height, width, channels))

    def _split_heads(self, qkv: Tensor) -> Tensor:
        """(windows, N, 3 * C) -> (3, windows, heads, N, d)."""
        return qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(windows, heads, N, d) each -> (windows, N, C)."""
        dropout = self.attn_drop if self.training else 0.0
        if torch.compiler.is_compiling() and q.device.type == 'cpu':  # where the number of windows may be a symbol
            return scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
        if q.device.type == 'cpu' and q.dtype != torch.float32 and torch.is_grad_enabled():
            return _attend_unfused(q, k, v, dropout).transpose(1, 2).flatten(2)
        masks = itertools.repeat(None) if mask is None else mask.split(MAX_BATCH)
        pieces = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH), masks)
        outs = [scaled_dot_product_attention(*piece, dropout) for piece in pieces]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out.transpose(1, 2).flatten(2)

    def _append_padding(self, k: Tensor, v: Tensor, num_padding: int) -> tuple[Tensor, Tensor]:
        """Append the keys and values of ``num_padding`` zero tokens: (windows, heads, N, d) -> (.., N + padding, d)."""
        windows, heads, _, head_dim = k.shape
        shape = (windows, heads, num_padding, head_dim)
        if self.qkv.bias is None:
            padding = k.new_zeros(shape)
            return torch.cat([k, padding], dim=2), torch.cat([v, padding], dim=2)
        _, key, value = self.qkv.bias.to(k.dtype).view(3, 1, heads, 1, head_dim)
        return torch.cat([k, key.expand(shape)], dim=2), torch.cat([v, value.expand(shape)], dim=2)


def _attend_unfused(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """``scaled_dot_product_attention`` for few keys; the fused kernel's gradient is slow in half precision on CPUs."""
    with torch.autocast(q.device.type, enabled=False):
        weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1), dim=-1)
        return F.dropout(weights, dropout) @ v


class GlobalSubsampledAttention(nn.Module):
    """Multi-head attention of every token to one representative per sub-window (GSA).

    Args:
        dim: Channels C of a token.
        num_heads: Attention heads; divides ``dim``.
        sr_ratio: Side of the sub-window that one key and value summarises, in tokens; rows and columns that do
            not fill a sub-window are dropped from keys and values. 1 is plain multi-head self-attention.
        qkv_bias: Whether the q and kv projections have a bias.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output.

    Source: Twins (arXiv:2104.13840), section 3.2; the strided convolution follows PVT (arXiv:2102.12122).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop = attn_drop
        self.q = TokenLinear(dim, dim, bias=qkv_bias)
        self.kv = TokenLinear(dim, 2 * dim, bias=qkv_bias)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.proj = TokenLinear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the representatives of all sub-windows.

        Args:
            x: Feature map, (B, H, W, C), with H and W at least ``sr_ratio``.

        Returns:
            (B, H, W, C).
        """
        representatives = x
        if self.sr_ratio > 1:
            representatives = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H / sr, W / sr, C)
            representatives = self.norm(representatives)
        kv = self.kv(representatives).view(x.shape[0], -1, 2, self.num_heads, x.shape[3] // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B, heads, N / sr^2, d)
        return in_bands(lambda band: self._attend(band, k, v), x, num_channels=2 * x.shape[3])

    def _attend(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every token in (B, H, W, C) to all keys (B, heads, M, d)."""
        q = self.q(x).flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)
        dropout = self.attn_drop if self.training else 0.0
        if not torch.is_grad_enabled() and not dropout and _runs_on_onednn(q, k):
            out = attend_in_chunks(q, k, v)
        else:
            out = scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))


def attend_in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` without a gradient, by oneDNN's matrix products on weights that stay in the cache.

    The fused kernel multiplies through PyTorch's BLAS, see :class:`TokenLinear`. It stays in use where queries are too
    few for a chunk, and where the weights of a chunk do not fit into the cache, as with many threads.

    Args:
        q: Queries, (B, heads, N, d), float32 on a CPU.
        k: Keys, (B, heads, M, d).
        v: Values, (B, heads, M, d).

    Returns:
        (B, heads, N, d), in memory (B, N, heads, d).
    """
    batch, heads, num_queries, head_dim = q.shape
    rows = torch.get_num_threads() * max(CHUNK_ROWS, CHUNK_ELEMENTS // k.shape[2])
    if num_queries < rows or rows * k.shape[2] > MAX_CHUNK_ELEMENTS:
        return scaled_dot_product_attention(q, k, v)
    keys, values = k * head_dim**-0.5, v.transpose(2, 3).contiguous()
    out = q.new_empty(batch, num_queries, heads, head_dim).transpose(1, 2)
    chunks = zip(*(x.tensor_split(num_queries // rows, dim=2) for x in (q, out)))
    for (queries, target), image, head in itertools.product(chunks, range(batch), range(heads)):
        weights = token_linear(queries[image, head].contiguous(), keys[image, head])
        torch.softmax(weights, dim=1, out=weights)
        target[image, head] = token_linear(weights, values[image, head])
    return out


def in_bands(
    function: Callable[..., Tensor], *maps: Tensor, num_channels: int, multiple: int = 1, recompute: bool = False
) -> Tensor:
    """Apply a function to feature maps band by band, where nothing is kept for a gradient on a CPU.

    What the function computes in between then stays in the cache, and in memory that needs no page faults.

    Args:
        function: From (B, h, W, C) each to (B, h, W, C), row by row of what it is given.
        maps: Feature maps, (B, H, W, C).
        num_channels: Channels of the widest tensor that the function computes in between.
        multiple: Rows that belong together; a band has a multiple of them.
        recompute: Keep nothing for a gradient, but compute each band again.

    Returns:
        (B, H, W, C).
    """
    (batch, height, width, _), device = maps[0].shape, maps[0].device
    if (torch.is_grad_enabled() and not recompute) or device.type != 'cpu' or torch.compiler.is_compiling():
        return function(*maps)
    units = math.ceil(height / multiple)
    num_bands = math.ceil(units / max(1, BAND_ELEMENTS // (batch * width * num_channels * multiple)))
    if num_bands == 1:
        return function(*maps)
    rows = math.ceil(units / num_bands) * multiple  # about equal: products of few tokens are slow
    bands = zip(*(x.split(rows, dim=1) for x in maps), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, *band, use_reentrant=False) for band in bands], dim=1)
    out = torch.empty_like(maps[0])
    for band, target in zip(bands, out.split(rows, dim=1), strict=True):
        target.copy_(function(*band))
    return out


class Region(NamedTuple):
    """A rectangle of a feature map that consists of equal windows, in tokens."""

    top: int
    left: int
    height: int
    width: int
    side_h: int
    side_w: int

    @property
    def num_tokens(self) -> int:
        return self.height * self.width

    def windows_of(self, x: Tensor) -> Tensor:
        """The windows in a feature map, as a view: (B, H, W, C) -> (B, rows, columns, side_h, side_w, C)."""
        x = x.narrow(1, self.top, self.height).narrow(2, self.left, self.width)
        return x.unflatten(2, (-1, self.side_w)).unflatten(1, (-1, self.side_h)).transpose(2, 3)


def _divide(numbers: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder; ONNX has no remainder by a size that is a symbol."""
    quotient = numbers // divisor
    return quotient, numbers - quotient * divisor


def window_regions(height: int, width: int, size: int) -> list[Region]:
    """Cut a feature map into regions of equal windows: the whole windows, and those that its borders cut off.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        size: Side of a whole window, in tokens.

    Returns:
        One to four regions: one where ``size`` divides both H and W, two where it divides one of them.
    """
    rest_h, rest_w = height % size, width % size
    rows = [(0, height - rest_h, size), (height - rest_h, rest_h, rest_h)]
    columns = [(0, width - rest_w, size), (width - rest_w, rest_w, rest_w)]
    return [
        Region(top, left, region_h, region_w, side_h, side_w)
        for top, region_h, side_h in rows
        for left, region_w, side_w in columns
        if region_h and region_w
    ]


def partition_windows(x: Tensor, regions: Sequence[Region]) -> Tensor:
    """Order the tokens of a feature map by window, in a single pass over memory.

    Args:
        x: Feature map, (B, H, W, C).
        regions: Of its size, as :func:`window_regions` returns them.

    Returns:
        (B * H * W, C): region after region, window after window.
    """
    tokens = x.new_empty(x.shape[0] * x.shape[1] * x.shape[2], x.shape[3])
    start = 0
    for region in regions:
        windows = region.windows_of(x)
        length = x.shape[0] * region.num_tokens
        tokens.narrow(0, start, length).view(windows.shape).copy_(windows)
        start += length
    return tokens


def merge_windows(parts: Sequence[Tensor], regions: Sequence[Region], shape: Sequence[int]) -> Tensor:
    """Put windows back into a feature map, the inverse of :func:`partition_windows`.

    Args:
        parts: The tokens of each region, in any shape.
        regions: As for :func:`partition_windows`.
        shape: (B, H, W, C).

    Returns:
        Feature map, (B, H, W, C).
    """
    x = parts[0].new_empty(shape)
    for region, part in zip(regions, parts, strict=True):
        windows = region.windows_of(x)
        windows.copy_(part.view(windows.shape))
    return x


class _Partition(torch.autograd.Function):
    """:func:`partition_windows` with :func:`merge_windows` for a gradient: written as plain operations, each would copy twice."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, regions: Sequence[Region]) -> Tensor:
        ctx.shape, ctx.regions = x.shape, regions
        return partition_windows(x, regions)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        parts = grad.split([ctx.shape[0] * region.num_tokens for region in ctx.regions])
        return merge_windows(parts, ctx.regions, ctx.shape), None


class _Merge(torch.autograd.Function):
    """:func:`merge_windows` with :func:`partition_windows` for a gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, shape: torch.Size, regions: Sequence[Region], *parts: Tensor) -> Tensor:
        ctx.part_shapes, ctx.regions = [part.shape for part in parts], regions
        return merge_windows(parts, regions, shape)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = partition_windows(grad, ctx.regions).split([shape[:2].numel() for shape in ctx.part_shapes])
        return None, None, *(part.view(shape) for part, shape in zip(parts, ctx.part_shapes, strict=True))
