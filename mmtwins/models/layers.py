"""The layers around attention, and the geometry of patches. Tokens are (B, H, W, C) throughout."""

import torch.nn.functional as F
from torch import Tensor, nn

PATCH_PADDINGS = ('none', 'corner')


def patch_size(stage: int) -> int:
    """Side of a patch of a stage, counted from 0: pixels in the first stage, tokens of the stage before in the others."""
    return 4 if stage == 0 else 2


def stage_stride(stage: int) -> int:
    """Side of a token of a stage, counted from 0, in pixels of the image."""
    stride = 1
    for i in range(stage + 1):
        stride *= patch_size(i)
    return stride


MIN_INPUT_SIDE = stage_stride(3)  # pixels: leaves one token in the last of four stages


def num_patches(length: int, size: int, patch_padding: str) -> int:
    """Patches of side ``size`` along an axis of ``length``, for a padding of :data:`PATCH_PADDINGS`."""
    return (length + (size - 1 if patch_padding == 'corner' else 0)) // size


def map_sizes(height: int, width: int, num_stages: int = 4, patch_padding: str = 'none') -> list[tuple[int, int]]:
    """Feature-map sizes (H, W) of the stages, in tokens, for an image of ``height`` x ``width`` pixels."""
    sizes = []
    for i in range(num_stages):
        height, width = (num_patches(length, patch_size(i), patch_padding) for length in (height, width))
        sizes.append((height, width))
    return sizes


class DropPath(nn.Module):
    """Drop a residual branch per sample, scaling the survivors by 1 / (1 - rate) (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        return x * self.draw(x)

    def draw(self, x: Tensor) -> Tensor:
        """Draw the factor of each sample, 0 or 1 / (1 - rate): (B, ...) -> (B, 1, ...)."""
        survives = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return survives.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'


class PatchEmbed(nn.Module):
    """Turn each square patch into one token: convolution with kernel = stride = patch side, then LayerNorm.

    Args:
        in_channels: Channels of the input map.
        dim: Channels of a token.
        patch_size: Side of a patch, in tokens of the input map (pixels for an image).
        patch_padding: ``'none'`` drops the rows and columns that do not fill a patch (public code, timm),
            ``'corner'`` completes them with zeros on the right and at the bottom (mmseg).

    Source: ``PatchEmbed`` in the public Twins code.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, patch_padding: str) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.patch_padding = patch_padding
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, H / patch, W / patch, dim)."""
        if self.patch_padding == 'corner':
            missing = [
                num_patches(length, self.patch_size, 'corner') * self.patch_size - length for length in x.shape[1:3]
            ]
            x = F.pad(x, (0, 0, 0, missing[1], 0, missing[0]))
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PositionEncodingGenerator(nn.Module):
    """Conditional position encoding: x plus a 3 x 3 depthwise convolution of x (PEG).

    Source: CPVT (arXiv:2102.10882), section 3; ``PosCNN`` in the public Twins code.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x + self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear, on the last axis."""

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        x = self.drop1(self.act(self.fc1(x)))
        return self.drop2(self.fc2(x))


def drop_path_rates(highest: float, num_blocks: int) -> list[float]:
    """Rates of stochastic depth, rising linearly from 0 in the first block to the highest in the last."""
    return [highest * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


def init_weights(module: nn.Module) -> None:
    """Draw the weights of one layer as the public code does; norms keep 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    else:
        return  # LayerNorm starts as 1 and 0
    if module.bias is not None:
        nn.init.zeros_(module.bias)


COLOURS = "set in_channels, or load grey images with color_type='color'"


def check_images(x: Tensor, in_channels: int, min_size: tuple[int, int], remedy: str = COLOURS) -> None:
    """Refuse what is no batch of images that a backbone can take.

    Args:
        x: Images, (B, in_channels, H, W).
        in_channels: Channels of an image.
        min_size: Smallest height and width, in pixels.
        remedy: What to do about another number of channels.

    Raises:
        ValueError: They are too small or have another number of channels.
    """
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(f'expected images of shape (B, {in_channels}, H, W), got {tuple(x.shape)}: {remedy}')
    if x.shape[2] < min_size[0] or x.shape[3] < min_size[1]:
        raise ValueError(
            f'an image of {x.shape[2]} x {x.shape[3]} pixels is too small: the smallest input is '
            f'{min_size[0]} x {min_size[1]} pixels; resize or pad it'
        )
