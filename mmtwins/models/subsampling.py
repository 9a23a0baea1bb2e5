"""How global attention makes one representative of the tokens of a sub-window: the three functions that the paper compares.

A new one is an entry of :data:`SUBSAMPLINGS`, with its cost in ``mmtwins/analysis`` and its loading in
``mmtwins/weights/resizing.py``.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from .architectures import check_choice, is_sequence
from .windows import Size, as_pair


def _convolution(dim: int, rows: int, columns: int) -> nn.Module:
    """A strided convolution, all channels with all."""
    return nn.Conv2d(dim, dim, kernel_size=(rows, columns), stride=(rows, columns))


def _separable_convolution(dim: int, rows: int, columns: int) -> nn.Module:
    """A strided convolution of each channel alone, then a 1 x 1 convolution, which has the bias of both."""
    size = (rows, columns)
    depthwise = nn.Conv2d(dim, dim, kernel_size=size, stride=size, groups=dim, bias=False)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=nn.Conv2d(dim, dim, kernel_size=1)))


def _average(_: int, rows: int, columns: int) -> nn.Module:
    """The mean of each channel, without parameters."""
    return nn.AvgPool2d(kernel_size=(rows, columns))


# From channels, rows and columns of a sub-window to a module (B, C, H, W) -> (B, C, H / rows, W / columns). Rows and
# columns of the map that do not fill a sub-window are dropped.
SUBSAMPLINGS: dict[str, Callable[[int, int, int], nn.Module]] = {
    'conv': _convolution,
    'separable': _separable_convolution,
    'pool': _average,
}


def make_subsampling(subsampling: str, dim: int, sr_ratio: Size) -> nn.Module:
    """Build what makes the representatives, before their norm.

    Args:
        subsampling: A key of :data:`SUBSAMPLINGS`.
        dim: Channels C of a token.
        sr_ratio: Side of a sub-window, or its rows and columns, in tokens.

    Returns:
        A module (B, C, H, W) -> (B, C, H / rows, W / columns).

    Raises:
        ValueError: There is no such sub-sampling.

    Source: Twins (arXiv:2104.13840), the ablation of sub-sampling functions: top-1 on ImageNet of Twins-SVT-S is 81.7 %
    with a convolution, 81.2 % with a separable convolution and 81.2 % with average pooling.
    """
    check_choice('subsampling', subsampling, tuple(SUBSAMPLINGS))
    return SUBSAMPLINGS[subsampling](dim, *as_pair(sr_ratio))


def subsampling_per_stage(subsampling: str | Sequence[str], num_stages: int) -> tuple[str, ...]:
    """The sub-sampling of each stage, checked.

    Args:
        subsampling: A key of :data:`SUBSAMPLINGS`, or one per stage.
        num_stages: Number of stages.

    Returns:
        One key per stage.

    Raises:
        ValueError: There is no such sub-sampling, or the number of stages is another one.
    """
    if not is_sequence(subsampling):
        subsampling = (subsampling,) * num_stages  # type: ignore[assignment]  # no sequence but a string
    elif len(subsampling) != num_stages:
        raise ValueError(
            f'subsampling={subsampling!r} does not match the {num_stages} stages: give one of '
            f'{", ".join(SUBSAMPLINGS)}, or one per stage'
        )
    for kind in subsampling:
        check_choice('subsampling', kind, tuple(SUBSAMPLINGS))
    return tuple(subsampling)
