"""The two attention modules of Twins, on (B, H, W, C) tokens."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .compiling import is_compiling
from .subsampling import make_subsampling
from .windows import (
    Size,
    as_pair,
    key_mask,
    merge_windows,
    num_windows,
    order_by_index,
    pad_to_windows,
    padding_attends,
    partition_windows,
    window_regions,
)

MAX_BATCH = 65535  # of CUDA's fused attention kernels: the batch lies on a limited axis of their grid


class LocallyGroupedSelfAttention(nn.Module):
    """Multi-head self-attention inside non-overlapping windows (LSA).

    Args:
        dim: Channels C of a token.
        num_heads: Attention heads; divides ``dim``.
        window_size: Side of a window, or its rows and columns, in tokens.
        window_padding: What happens where windows do not divide the feature map.

            - ``'masked'``: windows at the right and bottom border are smaller; no token is padded or masked.
            - ``'zero'``: the map is padded with zeros, and the padding tokens attend like all others (public COCO
              code, timm).
            - ``'meituan'``: ``'zero'`` where exactly one axis needs padding, else ``'masked'`` (public ADE20K code,
              whose mask covers everything, and so masks nothing, where it pads one axis alone).
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
        window_size: Size,
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
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows.

        Args:
            x: Feature map, (B, H, W, C), any H and W.

        Returns:
            (B, H, W, C).
        """
        height, width = x.shape[1:3]
        if is_compiling() or torch.jit.is_tracing():
            out = self._attend_padded(x)
        else:
            if padding_attends(self.window_padding, height, width, self.window_size):
                x = pad_to_windows(x, self.window_size)
            qkv = self.qkv(x)
            regions = window_regions(x.shape[1], x.shape[2], self.window_size)
            out = merge_windows([self._attend(partition_windows(qkv, region)) for region in regions], regions)
            out = out[:, :height, :width]
        return self.proj_drop(self.proj(out))

    def _attend_padded(self, x: Tensor) -> Tensor:
        """The same for sizes that may be symbols: whole windows by indices, and a mask. One graph serves all sizes."""
        (batch, height, width, channels), size = x.shape, as_pair(self.window_size)
        order = order_by_index(batch, height, width, size, x.device)
        tokens, mask = x.flatten(0, 2).index_select(0, order.source), None
        if self.window_padding != 'masked':
            tokens = tokens * order.is_real[:, None]
        by_window = (batch * num_windows(height, size[0]) * num_windows(width, size[1]), size[0] * size[1])
        if self.window_padding != 'zero':
            is_key = key_mask(self.window_padding, order.is_real, height, width, size)
            mask = is_key.unflatten(0, by_window)[:, None, None]  # (windows, 1, 1, N)
        out = self._attend(self.qkv(tokens).unflatten(0, by_window), mask)
        return out.flatten(0, 1).index_select(0, order.target).view(batch, height, width, channels)

    def _attend(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        """(windows, N, 3 * C) and a mask (windows, 1, 1, N) -> (windows, N, C)."""
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (windows, heads, N, d)
        dropout = self.attn_drop if self.training else 0.0
        if q.is_cuda and q.shape[0] > MAX_BATCH:
            masks = itertools.repeat(None) if mask is None else mask.split(MAX_BATCH)
            pieces = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH), masks)
            out = torch.cat([scaled_dot_product_attention(*piece, dropout) for piece in pieces])
        else:
            out = scaled_dot_product_attention(q, k, v, mask, dropout)
        return out.transpose(1, 2).flatten(2)


class GlobalSubsampledAttention(nn.Module):
    """Multi-head attention of every token to one representative per sub-window (GSA).

    Args:
        dim: Channels C of a token.
        num_heads: Attention heads; divides ``dim``.
        sr_ratio: Side of the sub-window that one key and value summarises, or its rows and columns, in tokens. Rows and
            columns of the map that do not fill a sub-window are dropped from keys and values. 1 is plain multi-head
            self-attention.
        qkv_bias: Whether the q and kv projections have a bias.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output.
        subsampling: How the tokens of a sub-window become one, before a LayerNorm.

            - ``'conv'``: a strided convolution, C x C x rows x columns weights (public code).
            - ``'separable'``: a strided convolution of each channel alone, then a 1 x 1 convolution.
            - ``'pool'``: the mean of each channel, without weights.

    Raises:
        ValueError: There is no such sub-sampling.

    Source: Twins (arXiv:2104.13840), section 3.2, and its ablation of sub-sampling functions; the strided convolution
    follows PVT (arXiv:2102.12122).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: Size,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        subsampling: str = 'conv',
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.subsampling = subsampling
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        if self.subsamples:
            self.sr = make_subsampling(subsampling, dim, sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    @property
    def subsamples(self) -> bool:
        """Whether a key stands for more than one token."""
        return as_pair(self.sr_ratio) != (1, 1)

    def summarise(self, x: Tensor) -> Tensor:
        """The representatives of all sub-windows: (B, H, W, C) -> (B, H / rows, W / columns, C)."""
        return self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)) if self.subsamples else x

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the representatives of all sub-windows.

        Args:
            x: Feature map, (B, H, W, C), at least one sub-window.

        Returns:
            (B, H, W, C).
        """
        head_dim = x.shape[3] // self.num_heads
        q = self.q(x).flatten(1, 2).unflatten(2, (self.num_heads, head_dim)).transpose(1, 2)  # (B, heads, N, d)
        kv = self.kv(self.summarise(x)).flatten(1, 2).unflatten(2, (2, self.num_heads, head_dim))
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B, heads, M, d)
        dropout = self.attn_drop if self.training else 0.0
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))
