"""Which stage of Twins replaces each map of the old backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES
from .features import Feature
from .refusing import CannotSwap

STRIDES = (4, 8, 16, 32)  # of the stages of Twins, in pixels
SIZES = {'s': 'small', 'b': 'base', 'l': 'large'}
ARCHS = tuple(f'{family}-{size}' for family in ('svt', 'pcpvt') for size in SIZES)


def architecture(arch: str) -> tuple[str, str, Mapping[str, Sequence[int]]]:
    """Look up an architecture.

    Args:
        arch: Of ``ARCHS``, such as ``'svt-s'``.

    Returns:
        Name of the class, name of the size for its argument ``arch``, and the dimensions.

    Raises:
        ValueError: There is no such architecture.
    """
    if arch not in ARCHS:
        raise ValueError(f'arch {arch!r}: the architectures are {", ".join(ARCHS)}')
    family, _, size = arch.partition('-')
    if family == 'svt':
        return 'TwinsSVTBackbone', SIZES[size], ARCHITECTURES[SIZES[size]]
    return 'TwinsPCPVTBackbone', SIZES[size], PCPVT_ARCHITECTURES[SIZES[size]]


def choose_stages(old: Sequence[Feature], is_segmentor: bool, backbone: Mapping[str, Any]) -> tuple[int, ...]:
    """Choose the stage of Twins for each map of the old backbone.

    A detector keeps its strides, because its anchors and the levels of its regions depend on them. The heads of a
    segmentor resize their maps: four maps become the four stages, and fewer maps become the stages at the same depth.

    Args:
        old: Maps of the old backbone.
        is_segmentor: Whether the heads predict a label for each pixel.
        backbone: Config of the old backbone, for its ``out_indices``.

    Returns:
        Stages from 0, one per map.

    Raises:
        CannotSwap: Twins has no stages for the maps.
    """
    strides = [feature.stride for feature in old]
    listed = ', '.join(map(str, strides))
    if len(old) > len(STRIDES):
        raise CannotSwap(f'its backbone gives {len(old)} maps at strides {listed}; Twins has four stages')
    if strides != sorted(strides):
        raise CannotSwap(
            f'its backbone gives maps at strides {listed}, not from fine to coarse: it is an encoder and a decoder'
        )
    indices = tuple(backbone.get('out_indices') or ())
    is_staged = backbone.get('num_stages', 4) == 4 and len(indices) == len(old) and set(indices) <= set(range(4))
    is_dilated = is_staged and any(STRIDES[i] != stride for i, stride in zip(indices, strides))
    if is_segmentor and is_dilated and len(old) < len(STRIDES):
        return indices
    if set(strides) <= set(STRIDES) and len(set(strides)) == len(strides):
        return tuple(STRIDES.index(stride) for stride in strides)
    if len(old) == len(STRIDES) and (is_segmentor or len(set(strides)) == 1):
        return (0, 1, 2, 3)
    if is_segmentor:
        return (*range(len(old) - 1), 3)  # details from the first stages, meaning from the last
    raise CannotSwap(
        f'its backbone gives maps at strides {listed}, and anchors and regions depend on them; Twins has 4, 8, 16 and 32'
    )
