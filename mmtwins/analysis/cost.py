"""What Twins costs in closed form: the paper's cost model, the full count, and the windows that cost the least.

``lsa_cost`` and ``gsa_cost`` are the paper's cost model of the two attentions. ``backbone_macs`` is the full count of a
Twins backbone. ``calibrate`` finds the windows and sub-windows that need the fewest MACs at a resolution, or the best ones
within a bound; ``pareto_front`` finds all among which it can choose.
:mod:`mmtwins.analysis.counting` counts what any model executes, and defines a MAC.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import TypeVar

import numpy as np

from ..models.architectures import (
    ARCHITECTURES,
    PCPVT_ARCHITECTURES,
    check_choice,
    check_per_stage,
    resolve_architecture,
)
from ..models.layers import MIN_INPUT_SIDE, map_sizes, patch_size
from ..models.subsampling import SUBSAMPLINGS, subsampling_per_stage
from ..models.windows import Size, as_pair, num_windows, padding_attends, window_regions
from .front import Setting, StageChoice, choose_within, combine
from .parameters import backbone_parameters, subsampling_parameters

PUBLISHED_SR_RATIOS = (8, 4, 2, 1)
Side = TypeVar('Side', float, np.ndarray)  # one, or many at once


def lsa_cost(height: int, width: int, dim: int, k1: Side, k2: Side) -> Side:
    """The paper's cost of attention inside windows: every token with the k1 k2 tokens of its own.

    Args:
        height: H of the feature map, in tokens.
        width: W of the feature map, in tokens.
        dim: d, channels of a token.
        k1: Height of a window, in tokens.
        k2: Width of a window, in tokens.

    Returns:
        k1 k2 H W d, in MACs of one of the two attention products.

    Source: Twins (arXiv:2104.13840), section 3.2.
    """
    return k1 * k2 * height * width * dim


def gsa_cost(height: int, width: int, dim: int, k1: Side, k2: Side) -> Side:
    """The paper's cost of attention to one representative per k1 x k2 sub-window.

    Args, Source: as in :func:`lsa_cost`.

    Returns:
        H^2 W^2 d / (k1 k2), in MACs of one of the two attention products.
    """
    return (height * width) ** 2 * dim / (k1 * k2)


def best_window(height: int, width: int) -> tuple[float, int]:
    """The side of a square window at which LSA and GSA together cost the least.

    Their sum is at least 2 H W d sqrt(H W), reached at k1 k2 = sqrt(H W), so at k = (H W)^(1/4).

    Args:
        height: H of the feature map, in tokens.
        width: W of the feature map, in tokens.

    Returns:
        That k, and the integer with the lowest cost (the smaller of two with the same).

    Source: Twins (arXiv:2104.13840), section 3.2.
    """
    k = (height * width) ** 0.25
    candidates = range(max(int(k), 1), int(k) + 2)
    return k, min(candidates, key=lambda k: lsa_cost(height, width, 1, k, k) + gsa_cost(height, width, 1, k, k))


def lsa_macs(height: int, width: int, dim: int, window_size: Size, window_padding: str = 'masked') -> dict[str, int]:
    """MACs that ``LocallyGroupedSelfAttention`` executes for one feature map.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        dim: Channels of a token.
        window_size: Side of a window, or its rows and columns, in tokens; windows cut by the border are smaller.
        window_padding: As the backbone's; padding tokens that attend are projected and counted as all others.

    Returns:
        MACs by part: ``projections`` (qkv and output) and ``attention`` (both products).
    """
    tokens = projected = height * width
    if padding_attends(window_padding, height, width, window_size):
        rows, columns = as_pair(window_size)
        projected = num_windows(height, rows) * num_windows(width, columns) * rows * columns
        pairs = projected * rows * columns
    else:
        regions = window_regions(height, width, window_size)
        pairs = sum(region.num_tokens * region.side_h * region.side_w for region in regions)
    return dict(projections=(3 * projected + tokens) * dim**2, attention=2 * pairs * dim)


def gsa_macs(height: int, width: int, dim: int, sr_ratio: Size, subsampling: str = 'conv') -> dict[str, int]:
    """MACs that ``GlobalSubsampledAttention`` executes for one feature map.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        dim: Channels of a token.
        sr_ratio: Side of a sub-window, or its rows and columns, in tokens; rows and columns of the map that fill none
            give no keys.
        subsampling: As the backbone's.

    Returns:
        MACs by part: ``projections`` (q, kv and output), ``subsampling`` (convolutions; an average has additions alone,
        which are no MACs) and ``attention`` (both products).

    Raises:
        ValueError: There is no such sub-sampling.
    """
    check_choice('subsampling', subsampling, tuple(SUBSAMPLINGS))
    tokens, keys = height * width, num_keys(height, width, sr_ratio)
    rows, columns = as_pair(sr_ratio)
    area = rows * columns
    of_a_key = {'conv': dim**2 * area, 'separable': dim * area + dim**2, 'pool': 0}
    return dict(
        projections=(2 * tokens + 2 * keys) * dim**2,
        subsampling=keys * of_a_key[subsampling] if area > 1 else 0,
        attention=2 * tokens * keys * dim,
    )


def num_keys(height: int, width: int, sr_ratio: Size) -> int:
    """How many sub-windows fit, and so how many keys every token sees in GSA; sizes in tokens."""
    rows, columns = as_pair(sr_ratio)
    return (height // rows) * (width // columns)


def backbone_macs(
    arch: str | Mapping[str, Sequence],
    height: int,
    width: int,
    window_sizes: Sequence[Size] | None = (7, 7, 7, 7),
    sr_ratios: Sequence[Size] = (8, 4, 2, 1),
    window_padding: str = 'masked',
    patch_padding: str = 'none',
    in_channels: int = 3,
    subsampling: str | Sequence[str] = 'conv',
) -> list[dict[str, int]]:
    """MACs that a Twins backbone executes for one image, in closed form.

    Args:
        arch: As the backbone's; a name of Twins-SVT, or of Twins-PCPVT where there are no windows.
        height: H of the image, in pixels.
        width: W of the image, in pixels.
        window_sizes: As the backbone's; None for Twins-PCPVT, which has GSA in every block.
        sr_ratios: As the backbone's.
        window_padding: As the backbone's.
        patch_padding: As the backbone's.
        in_channels: Channels of the image.
        subsampling: As the backbone's.

    Returns:
        MACs per stage, by part: ``patch_embed``, ``peg``, ``lsa_projections``, ``lsa_attention``,
        ``gsa_projections``, ``gsa_subsampling``, ``gsa_attention`` and ``mlp``.

    Raises:
        ValueError: The architecture or sub-sampling is unknown, or values are not one per stage.
    """
    architecture = resolve_architecture(arch, PCPVT_ARCHITECTURES if window_sizes is None else ARCHITECTURES)
    dims = architecture['embed_dims']
    for name, values in dict(window_sizes=window_sizes, sr_ratios=sr_ratios).items():
        if values is not None:
            check_per_stage(name, values, len(dims), allow_pairs=True)
    kinds = subsampling_per_stage(subsampling, len(dims))
    sizes = map_sizes(height, width, len(dims), patch_padding)
    stages = []
    for i, (dim, (map_height, map_width)) in enumerate(zip(dims, sizes)):
        tokens, depth = map_height * map_width, architecture['depths'][i]
        num_lsa = 0 if window_sizes is None else (depth + 1) // 2
        macs = dict(
            patch_embed=tokens * dim * in_channels * patch_size(i) ** 2,
            peg=tokens * dim * 9,
            mlp=depth * 2 * tokens * dim * int(dim * architecture['mlp_ratios'][i]),
        )
        if window_sizes is not None:
            lsa = lsa_macs(map_height, map_width, dim, window_sizes[i], window_padding)
            macs |= {f'lsa_{part}': num_lsa * value for part, value in lsa.items()}
        gsa = gsa_macs(map_height, map_width, dim, sr_ratios[i], kinds[i])
        macs |= {f'gsa_{part}': (depth - num_lsa) * value for part, value in gsa.items()}
        stages.append(macs)
        in_channels = dim
    return stages


def calibrate(
    arch: str | Mapping[str, Sequence],
    height: int,
    width: int,
    min_keys: int = 49,
    max_unseen: float = 0.05,
    window_padding: str = 'masked',
    subsampling: str | Sequence[str] = 'conv',
    max_params: int | None = None,
    max_macs: int | None = None,
) -> dict[str, tuple[int, ...]]:
    """Find the windows and sub-windows with which Twins-SVT executes the fewest MACs at a resolution.

    Fewer keys are always cheaper, so what a token must still see is stated. Of all pairs of a window side k and a
    sub-window side r, each stage gets the cheapest one with

    - at least ``min_keys`` tokens in a window (or the whole map) and at least ``min_keys`` representatives (or every
      token as its own), the default being what the published models have at 224 x 224;
    - sub-windows at most one token wider than windows, as in the published models (8 and 7): a representative stands
      for tokens that local attention has brought together, which is the paper's cost argument;
    - at most a share ``max_unseen`` of the tokens in the rows and columns that fill no sub-window and give no key.

    At 224 x 224 this gives the published models. With a bound, the choice is among all of these pairs, see
    :func:`pareto_front`:

    - ``max_params`` alone: the fewest MACs with at most so many parameters;
    - ``max_macs`` alone: the fewest parameters with at most so many MACs;
    - both: the most keys within both bounds, and the fewest MACs among those.

    Args:
        arch: As :class:`TwinsSVTBackbone`'s.
        height: H of the images to train on, in pixels.
        width: W of the images to train on, in pixels.
        min_keys: Keys that every token attends to, in LSA (windows away from the border) and in GSA.
        max_unseen: Share of the tokens that may be left out of all sub-windows, 0 to 1.
        window_padding: As the backbone's.
        subsampling: As the backbone's, to be given to it too.
        max_params: Most parameters of the backbone.
        max_macs: Most MACs of the backbone for one image.

    Returns:
        ``window_sizes`` and ``sr_ratios``, arguments of :class:`TwinsSVTBackbone`, one integer per stage each.

    Raises:
        ValueError: An argument is out of its range, or nothing is within the bounds.
    """
    options = (min_keys, max_unseen, window_padding, subsampling)
    if max_params is None and max_macs is None:
        chosen = [min(stage, key=lambda choice: choice.macs) for stage in _choices(arch, height, width, *options)]
        return dict(
            window_sizes=tuple(choice.window_size for choice in chosen),
            sr_ratios=tuple(choice.sr_ratio for choice in chosen),
        )
    best = choose_within(pareto_front(arch, height, width, *options), max_params, max_macs)
    return dict(window_sizes=best.window_sizes, sr_ratios=best.sr_ratios)


def pareto_front(
    arch: str | Mapping[str, Sequence],
    height: int,
    width: int,
    min_keys: int = 49,
    max_unseen: float = 0.05,
    window_padding: str = 'masked',
    subsampling: str | Sequence[str] = 'conv',
) -> list[Setting]:
    """All windows and sub-windows for a resolution that no others beat in MACs, parameters and keys.

    Allowed is what :func:`calibrate` allows. One setting beats another if it has no more MACs, no more parameters and no
    fewer keys, and is better in one of the three. Of equal settings one is returned.

    Args, Raises: As :func:`calibrate`, without bounds.

    Returns:
        The settings by rising MACs.
    """
    stages = _choices(arch, height, width, min_keys, max_unseen, window_padding, subsampling)
    kinds = subsampling_per_stage(subsampling, len(stages))
    front: list[Setting] = []
    others = (0, 0)  # MACs and parameters that depend on no choice
    for chosen in combine(stages):
        windows, ratios = tuple(one.window_size for one in chosen), tuple(one.sr_ratio for one in chosen)
        macs, parameters = sum(one.macs for one in chosen), sum(one.parameters for one in chosen)
        if not front:
            whole = backbone_macs(arch, height, width, windows, ratios, window_padding, subsampling=kinds)
            weights = backbone_parameters(arch, windows, ratios, kinds)
            others = _total(whole) - macs, _total(weights) - parameters
        keys = min(one.keys for one in chosen)
        front.append(Setting(macs + others[0], parameters + others[1], keys, windows, ratios, kinds))
    return front


def setting_of(
    arch: str | Mapping[str, Sequence],
    height: int,
    width: int,
    window_sizes: Sequence[int] = (7, 7, 7, 7),
    sr_ratios: Sequence[int] = PUBLISHED_SR_RATIOS,
    subsampling: str | Sequence[str] = 'conv',
) -> Setting:
    """MACs, parameters and keys of given windows and sub-windows, the published ones by default.

    Args: As :func:`backbone_macs`.

    Returns:
        The setting, to compare with those of :func:`pareto_front`.

    Raises:
        ValueError: As :func:`backbone_macs`.
    """
    macs = _total(backbone_macs(arch, height, width, window_sizes, sr_ratios, subsampling=subsampling))
    parameters = _total(backbone_parameters(arch, window_sizes, sr_ratios, subsampling))
    keys = min(num_keys(*size, r) for size, r in zip(map_sizes(height, width, len(sr_ratios)), sr_ratios))
    kinds = subsampling_per_stage(subsampling, len(sr_ratios))
    return Setting(macs, parameters, keys, tuple(window_sizes), tuple(sr_ratios), kinds)


def _total(stages: Sequence[Mapping[str, int]]) -> int:
    return sum(sum(stage.values()) for stage in stages)


def _choices(
    arch: str | Mapping[str, Sequence],
    height: int,
    width: int,
    min_keys: int,
    max_unseen: float,
    window_padding: str,
    subsampling: str | Sequence[str],
) -> list[list[StageChoice]]:
    """What :func:`calibrate` allows in each stage: every sub-window, each with the cheapest window for it."""
    if min(height, width) < MIN_INPUT_SIDE or min_keys < 1 or not 0 <= max_unseen <= 1:
        raise ValueError(
            f'{height} x {width} pixels, min_keys={min_keys}, max_unseen={max_unseen}: give at least {MIN_INPUT_SIDE} x '
            f'{MIN_INPUT_SIDE} pixels, one key and a share from 0 to 1'
        )
    architecture = resolve_architecture(arch, ARCHITECTURES)
    dims, depths = architecture['embed_dims'], architecture['depths']
    kinds = subsampling_per_stage(subsampling, len(dims))
    stages = []
    for dim, depth, kind, size in zip(dims, depths, kinds, map_sizes(height, width, len(dims))):
        num_lsa = (depth + 1) // 2
        smallest_window = min(isqrt(min_keys - 1) + 1, max(size))
        cheapest: dict[int, tuple[int, int]] = {}  # MACs and side of the cheapest window that is at least so wide
        for k in range(max(size), smallest_window - 1, -1):
            macs = num_lsa * sum(lsa_macs(*size, dim, k, window_padding).values())
            cheapest[k] = min((macs, k), cheapest.get(k + 1, (macs, k)))
        choices = []
        for r in range(1, min(size) + 1):
            keys = num_keys(*size, r)
            if r > 1 and (keys < min_keys or keys * r**2 < (1 - max_unseen) * size[0] * size[1]):
                continue
            macs, k = cheapest[max(smallest_window, r - 1)]
            macs += (depth - num_lsa) * sum(gsa_macs(*size, dim, r, kind).values())
            parameters = (depth - num_lsa) * subsampling_parameters(dim, r, kind)
            choices.append(StageChoice(k, r, macs, parameters, keys))
        stages.append(choices)
    return stages
