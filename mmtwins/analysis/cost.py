"""What Twins costs in closed form: the paper's cost model, the full count, and the windows that cost the least.

``lsa_cost`` and ``gsa_cost`` are the paper's cost model of the two attentions. ``backbone_macs`` is the full count of a
Twins backbone. ``calibrate`` finds the windows and sub-windows that need the fewest MACs at a resolution.
:mod:`mmtwins.analysis.counting` counts what any model executes, and defines a MAC.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import TypeVar

import numpy as np

from ..models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES, resolve_architecture
from ..models.layers import MIN_INPUT_SIDE, map_sizes, patch_size
from ..models.windows import num_windows, padding_attends, window_regions

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


def lsa_macs(height: int, width: int, dim: int, window_size: int, window_padding: str = 'masked') -> dict[str, int]:
    """MACs that ``LocallyGroupedSelfAttention`` executes for one feature map.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        dim: Channels of a token.
        window_size: Side of a window, in tokens; windows cut by the border are smaller.
        window_padding: As the backbone's; padding tokens that attend are projected and counted as all others.

    Returns:
        MACs by part: ``projections`` (qkv and output) and ``attention`` (both products).
    """
    tokens = projected = height * width
    if padding_attends(window_padding, height, width, window_size):
        projected = num_windows(height, window_size) * num_windows(width, window_size) * window_size**2
        pairs = projected * window_size**2
    else:
        regions = window_regions(height, width, window_size)
        pairs = sum(region.num_tokens * region.side_h * region.side_w for region in regions)
    return dict(projections=(3 * projected + tokens) * dim**2, attention=2 * pairs * dim)


def gsa_macs(height: int, width: int, dim: int, sr_ratio: int) -> dict[str, int]:
    """MACs that ``GlobalSubsampledAttention`` executes for one feature map.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        dim: Channels of a token.
        sr_ratio: Side of a sub-window, in tokens; rows and columns that fill none give no keys.

    Returns:
        MACs by part: ``projections`` (q, kv and output), ``subsampling`` (the strided convolution) and ``attention``
        (both products).
    """
    tokens, keys = height * width, num_keys(height, width, sr_ratio)
    return dict(
        projections=(2 * tokens + 2 * keys) * dim**2,
        subsampling=keys * (dim * sr_ratio) ** 2 if sr_ratio > 1 else 0,
        attention=2 * tokens * keys * dim,
    )


def num_keys(height: int, width: int, sr_ratio: int) -> int:
    """How many sub-windows fit, and so how many keys every token sees in GSA; sizes in tokens."""
    return (height // sr_ratio) * (width // sr_ratio)


def backbone_macs(
    arch: str | Mapping[str, Sequence],
    height: int,
    width: int,
    window_sizes: Sequence[int] | None = (7, 7, 7, 7),
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    window_padding: str = 'masked',
    patch_padding: str = 'none',
    in_channels: int = 3,
) -> list[dict[str, int]]:
    """MACs that a Twins backbone executes for one image, in closed form.

    Args:
        arch: As the backbone's; a name of Twins-SVT, or of Twins-PCPVT where there are no windows.
        height: H of the image, in pixels.
        width: W of the image, in pixels.
        window_sizes: Side of an LSA window per stage, in tokens; None for Twins-PCPVT, which has GSA in every block.
        sr_ratios: Side of a GSA sub-window per stage, in tokens.
        window_padding: As the backbone's.
        patch_padding: As the backbone's.
        in_channels: Channels of the image.

    Returns:
        MACs per stage, by part: ``patch_embed``, ``peg``, ``lsa_projections``, ``lsa_attention``,
        ``gsa_projections``, ``gsa_subsampling``, ``gsa_attention`` and ``mlp``.

    Raises:
        ValueError: The architecture is unknown, or values are not one per stage.
    """
    architecture = resolve_architecture(arch, PCPVT_ARCHITECTURES if window_sizes is None else ARCHITECTURES)
    dims = architecture['embed_dims']
    for name, values in dict(window_sizes=window_sizes, sr_ratios=sr_ratios).items():
        if values is not None and len(values) != len(dims):
            raise ValueError(f'{name}={values!r} does not match the {len(dims)} stages: give one value per stage')
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
        gsa = gsa_macs(map_height, map_width, dim, sr_ratios[i])
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
) -> dict[str, tuple[int, ...]]:
    """Find the windows and sub-windows with which Twins-SVT executes the fewest MACs at a resolution.

    Fewer keys are always cheaper, so what a token must still see is stated. Of all pairs of a window side k and a
    sub-window side r, each stage gets the cheapest one with

    - at least ``min_keys`` tokens in a window (or the whole map) and at least ``min_keys`` representatives (or every
      token as its own), the default being what the published models have at 224 x 224;
    - sub-windows at most one token wider than windows, as in the published models (8 and 7): a representative stands
      for tokens that local attention has brought together, which is the paper's cost argument;
    - at most a share ``max_unseen`` of the tokens in the rows and columns that fill no sub-window and give no key.

    At 224 x 224 this gives the published models.

    Args:
        arch: As :class:`TwinsSVTBackbone`'s.
        height: H of the images to train on, in pixels.
        width: W of the images to train on, in pixels.
        min_keys: Keys that every token attends to, in LSA (windows away from the border) and in GSA.
        max_unseen: Share of the tokens that may be left out of all sub-windows, 0 to 1.
        window_padding: As the backbone's.

    Returns:
        ``window_sizes`` and ``sr_ratios``, arguments of :class:`TwinsSVTBackbone`, one integer per stage each.

    Raises:
        ValueError: An argument is out of its range.
    """
    if min(height, width) < MIN_INPUT_SIDE or min_keys < 1 or not 0 <= max_unseen <= 1:
        raise ValueError(
            f'{height} x {width} pixels, min_keys={min_keys}, max_unseen={max_unseen}: give at least {MIN_INPUT_SIDE} x '
            f'{MIN_INPUT_SIDE} pixels, one key and a share from 0 to 1'
        )
    architecture = resolve_architecture(arch, ARCHITECTURES)
    chosen = []
    dims, depths = architecture['embed_dims'], architecture['depths']
    for dim, depth, size in zip(dims, depths, map_sizes(height, width, len(dims))):
        num_lsa = (depth + 1) // 2
        smallest_window = min(isqrt(min_keys - 1) + 1, max(size))
        pairs = {}
        for r in range(1, min(size) + 1):
            keys = num_keys(*size, r)
            if r > 1 and (keys < min_keys or keys * r**2 < (1 - max_unseen) * size[0] * size[1]):
                continue
            gsa = (depth - num_lsa) * sum(gsa_macs(*size, dim, r).values())
            for k in range(max(smallest_window, r - 1), max(size) + 1):
                pairs[k, r] = gsa + num_lsa * sum(lsa_macs(*size, dim, k, window_padding).values())
        chosen.append(min(pairs, key=pairs.__getitem__))
    window_sizes, sr_ratios = zip(*chosen)
    return dict(window_sizes=window_sizes, sr_ratios=sr_ratios)
