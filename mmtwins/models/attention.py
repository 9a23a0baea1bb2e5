"""The two attention modules of Twins-SVT, on contiguous (B, H, W, C) tokens."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .bands import in_bands
from .linear import TokenLinear, runs_on_onednn, token_linear
from .windows import MergeWindows, PartitionWindows, window_regions

MAX_BATCH = 65535  # of CUDA's fused attention kernels, which put the batch on a limited axis of their grid
CHUNK_ELEMENTS = 2**19  # at least, of the attention weights that a thread has at hand: 2 MiB in float32
MAX_CHUNK_ELEMENTS = 2**22  # of all threads: 16 MiB in float32
CHUNK_ROWS = 512  # at least, of these weights; oneDNN shares out fewer rows badly
WINDOW_PADDINGS = ('masked', 'zero', 'meituan')


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
            training=self.training,
        )

    def _forward(self, x: Tensor, padding_attends: bool) -> Tensor:
        regions = window_regions(*x.shape[1:3], self.window_size)
        windows = self.qkv(PartitionWindows.apply(x, regions)).split(
            [x.shape[0] * region.num_tokens for region in regions]
        )
        outs = []
        for region, qkv in zip(regions, windows, strict=True):
            num_tokens = region.side_h * region.side_w
            q, k, v = self._split_heads(qkv.unflatten(0, (-1, num_tokens)))
            if padding_attends and num_tokens < self.window_size**2:
                k, v = self._append_padding(k, v, self.window_size**2 - num_tokens)
            outs.append(self._attend(q, k, v))
        return self.proj_drop(self.proj(MergeWindows.apply(x.shape, regions, *outs)))

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
        if q.device.type == 'cpu' and q.dtype in (torch.float16, torch.bfloat16) and q.requires_grad:
            assert mask is None
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
        return in_bands(lambda band: self._attend(band, k, v), x, num_channels=2 * x.shape[3], training=self.training)

    def _attend(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every token in (B, H, W, C) to all keys (B, heads, M, d)."""
        q = self.q(x).flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)
        dropout = self.attn_drop if self.training else 0.0
        if not torch.is_grad_enabled() and not dropout and runs_on_onednn(q, k):
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
    num_chunks = num_queries // rows
    if num_chunks == 0 or math.ceil(num_queries / num_chunks) * k.shape[2] > MAX_CHUNK_ELEMENTS:
        return scaled_dot_product_attention(q, k, v)
    keys, values = k * head_dim**-0.5, v.transpose(2, 3).contiguous()
    out = q.new_empty(batch, num_queries, heads, head_dim).transpose(1, 2)
    chunks = zip(*(x.tensor_split(num_chunks, dim=2) for x in (q, out)))
    for (queries, target), image, head in itertools.product(chunks, range(batch), range(heads)):
        weights = token_linear(queries[image, head].contiguous(), keys[image, head])
        torch.softmax(weights, dim=1, out=weights)
        target[image, head] = token_linear(weights, values[image, head])
    return out


def _divide(numbers: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder; ONNX has no remainder by a size that is a symbol."""
    quotient = numbers // divisor
    return quotient, numbers - quotient * divisor
