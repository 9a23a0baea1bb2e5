"""The two attention modules of Twins-SVT, on contiguous (B, H, W, C) tokens."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

MAX_BATCH = 65535  # of CUDA's fused attention kernels, which put the batch on a limited axis of their grid
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
        size = self.window_size
        rest_h, rest_w = x.shape[1] % size, x.shape[2] % size
        padding_attends = self.window_padding == 'zero' or (
            self.window_padding == 'meituan' and (rest_h > 0) != (rest_w > 0)
        )
        strips = []
        for strip in split_border(self.qkv(x), rest_h, dim=1):
            regions = split_border(strip, rest_w, dim=2)
            strips.append(torch.cat([self._attend(region, padding_attends) for region in regions], dim=2))
        return self.proj_drop(self.proj(torch.cat(strips, dim=1)))

    def _attend(self, qkv: Tensor, padding_attends: bool) -> Tensor:
        """Attention in a region of equal windows: (B, H, W, 3 * C) -> (B, H, W, C)."""
        _, height, width, channels = qkv.shape
        side_h, side_w = min(height, self.window_size), min(width, self.window_size)
        windows = partition_windows(qkv, side_h, side_w)  # (windows, N, 3 * C)
        num_windows, num_tokens, _ = windows.shape
        head_dim = channels // (3 * self.num_heads)
        q, k, v = windows.view(num_windows, num_tokens, 3, self.num_heads, head_dim).permute(2, 0, 3, 1, 4)
        num_padding = self.window_size**2 - num_tokens
        if padding_attends and num_padding:
            k, v = self._append_padding(k, v, num_padding)
        dropout = self.attn_drop if self.training else 0.0
        parts = zip(*(x.split(MAX_BATCH) for x in (q, k, v)), strict=True)
        outs = [scaled_dot_product_attention(*part, dropout_p=dropout) for part in parts]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        out = out.transpose(1, 2).reshape(num_windows, num_tokens, channels // 3)
        return merge_windows(out, side_h, side_w, height, width)

    def _append_padding(self, k: Tensor, v: Tensor, num_padding: int) -> tuple[Tensor, Tensor]:
        """Append the keys and values of ``num_padding`` zero tokens: (windows, heads, N, d) -> (.., N + padding, d)."""
        windows, heads, _, head_dim = k.shape
        shape = (windows, heads, num_padding, head_dim)
        if self.qkv.bias is None:
            padding = k.new_zeros(shape)
            return torch.cat([k, padding], dim=2), torch.cat([v, padding], dim=2)
        _, key, value = self.qkv.bias.to(k.dtype).view(3, 1, heads, 1, head_dim)
        return torch.cat([k, key.expand(shape)], dim=2), torch.cat([v, value.expand(shape)], dim=2)


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
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the representatives of all sub-windows.

        Args:
            x: Feature map, (B, H, W, C), with H and W at least ``sr_ratio``.

        Returns:
            (B, H, W, C).
        """
        batch, height, width, channels = x.shape
        head_dim = channels // self.num_heads
        representatives = x
        if self.sr_ratio > 1:
            representatives = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H / sr, W / sr, C)
            representatives = self.norm(representatives)
        q = self.q(x).view(batch, height * width, self.num_heads, head_dim).transpose(1, 2)
        kv = self.kv(representatives).view(batch, -1, 2, self.num_heads, head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B, heads, N / sr^2, d)
        out = scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(x.shape)))


def split_border(x: Tensor, rest: int, dim: int) -> tuple[Tensor, ...]:
    """Split off the last ``rest`` rows or columns, leaving out what is empty."""
    sizes = [size for size in (x.shape[dim] - rest, rest) if size]
    return x.split(sizes, dim) if len(sizes) > 1 else (x,)


def partition_windows(x: Tensor, side_h: int, side_w: int) -> Tensor:
    """Cut a feature map into windows.

    Args:
        x: Feature map, (B, H, W, C); H and W are multiples of ``side_h`` and ``side_w``.
        side_h: Height of a window, in tokens.
        side_w: Width of a window, in tokens.

    Returns:
        (B * H / side_h * W / side_w, side_h * side_w, C).

    Source: Twins (arXiv:2104.13840), section 3.2.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side_h, side_h, width // side_w, side_w, channels)
    return x.transpose(2, 3).reshape(-1, side_h * side_w, channels)


def merge_windows(windows: Tensor, side_h: int, side_w: int, height: int, width: int) -> Tensor:
    """Put windows back into a feature map, the inverse of :func:`partition_windows`.

    Args:
        windows: (B * H / side_h * W / side_w, side_h * side_w, C).
        side_h: Height of a window, in tokens.
        side_w: Width of a window, in tokens.
        height: H, in tokens.
        width: W, in tokens.

    Returns:
        Feature map, (B, H, W, C).
    """
    channels = windows.shape[-1]
    x = windows.view(-1, height // side_h, width // side_w, side_h, side_w, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)
