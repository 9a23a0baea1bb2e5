"""The transformer block of both families."""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import fast_path
from .compiling import is_compiling
from .layers import DropPath, Mlp


class TwinsBlock(nn.Module):
    """Pre-norm transformer block: x + DropPath(attention(norm1 x)), then x + DropPath(mlp(norm2 x)).

    On CPUs :mod:`mmtwins.models.fast_path` computes the same faster where nobody can notice.

    Args:
        attn: Attention on (B, H, W, C).
        dim: Channels C of a token.
        mlp_ratio: Hidden channels of the MLP per token channel.
        drop: Dropout rate in the MLP.
        drop_path: Probability that a sample skips a branch; one draw per branch.
    """

    def __init__(self, attn: nn.Module, dim: int, mlp_ratio: float, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if fast_path.applies(self, x):
            return fast_path.run_block(self, x)
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def recompute(block: nn.Module, *inputs: Any) -> Tensor:
    """Run a block and keep its inputs alone for the backward pass, which computes the block again.

    Args:
        block: The block.
        *inputs: Of its forward pass.

    Returns:
        What the block returns.
    """
    if is_compiling():
        return checkpoint(block, *inputs, use_reentrant=False)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=fast_path.checkpoint_contexts)
