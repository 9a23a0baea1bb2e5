"""The layers as timm and the public code call them: on tokens (B, N, C), with the size of their map beside."""

from typing import Any, cast

from torch import Tensor

from ..models.block import TwinsBlock
from ..models.layers import PatchEmbed, PositionEncodingGenerator

Size = tuple[int, int]  # height and width of a map, in tokens


def unflatten(tokens: Tensor, size: tuple[Any, ...]) -> Tensor:
    """Put tokens side by side.

    Args:
        tokens: (B, H * W, C).
        size: What a layer was given beside them: ``((H, W),)`` as timm calls it, or ``(H, W)`` as the public code does.

    Returns:
        (B, H, W, C), a view.
    """
    return tokens.unflatten(1, tuple(size[0] if len(size) == 1 else size))


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W), a view."""
    return unflatten(tokens, size).permute(0, 3, 1, 2)


class TokenPatchEmbed(PatchEmbed):
    """Patch embedding from a map to tokens.

    Args:
        in_channels: Channels of the map.
        dim: Channels of a token.
        patch_size: Side of a patch, in tokens of the map (pixels for an image).

    Source: ``PatchEmbed`` of timm's twins.py, which has the side twice in ``patch_size``; FlowDiffuser changes it.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__(in_channels, dim, patch_size, patch_padding='none')
        self.patch_size = (patch_size, patch_size)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:  # type: ignore[override]
        """(B, in_channels, H, W) -> (B, N, dim), and height and width of the tokens' map."""
        tokens = self.norm(self.proj(x).permute(0, 2, 3, 1)).flatten(1, 2)
        height, width = cast(tuple[int, int], self.patch_size)
        return tokens, (x.shape[2] // height, x.shape[3] // width)


class TokenBlock(TwinsBlock):
    """A block that takes ``block(x, (H, W))`` and ``block(x, H, W)``; its attention works on maps (B, H, W, C)."""

    def forward(self, x: Tensor, *size: Any) -> Tensor:
        """(B, H * W, C) and the size of the map -> (B, H * W, C)."""
        return super().forward(unflatten(x, size)).flatten(1, 2)


class TokenPositionEncoding(PositionEncodingGenerator):
    """A PEG that takes ``peg(x, (H, W))`` and ``peg(x, H, W)``."""

    def forward(self, x: Tensor, *size: Any) -> Tensor:
        """(B, H * W, C) and the size of the map -> (B, H * W, C)."""
        return super().forward(unflatten(x, size)).flatten(1, 2)
