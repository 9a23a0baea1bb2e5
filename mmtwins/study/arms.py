"""The arms of the study: backbones that differ in windows and sub-samplings alone."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..analysis.cost import PUBLISHED_SR_RATIOS, calibrate

WINDOWS = (7, 7, 7, 7)


class Arm(NamedTuple):
    """An arm: its title in the table, and its backbone's settings from an architecture and the side of a map in pixels."""

    title: str
    backbone: Callable[[Mapping[str, Any], int], dict[str, Any]]


def _svt(**settings: Any) -> dict[str, Any]:
    return dict(type='TwinsSVTBackbone', window_sizes=WINDOWS, sr_ratios=PUBLISHED_SR_RATIOS) | settings


def _calibrated(subsampling: str) -> Callable[[Mapping[str, Any], int], dict[str, Any]]:
    def backbone(arch: Mapping[str, Any], size: int) -> dict[str, Any]:
        kind: dict[str, Any] = {} if subsampling == 'conv' else dict(subsampling=subsampling)  # the default of both
        return _svt(**calibrate(arch, size, size, **kind), **kind)

    return backbone


def _other_keys(change: Callable[[int], int]) -> Callable[[Mapping[str, Any], int], dict[str, Any]]:
    """The calibrated arm with the width of every sub-window changed."""

    def backbone(arch: Mapping[str, Any], size: int) -> dict[str, Any]:
        settings = ARMS['calibrated'].backbone(arch, size)
        pairs = [(ratio, ratio) if isinstance(ratio, int) else tuple(ratio) for ratio in settings['sr_ratios']]
        return settings | dict(sr_ratios=tuple((height, change(width)) for height, width in pairs))

    return backbone


ARMS = {
    'k7': Arm('k = 7', lambda arch, size: _svt()),
    'calibrated': Arm('calibrated, convolution', _calibrated('conv')),
    'calibrated-separable': Arm('calibrated, separable', _calibrated('separable')),
    'calibrated-pool': Arm('calibrated, pooling', _calibrated('pool')),
    'half': Arm('half the keys', _other_keys(lambda width: 2 * width)),
    'double': Arm('twice the keys', _other_keys(lambda width: max(width // 2, 1))),
    'lsa': Arm('LSA only', lambda arch, size: dict(type='TwinsLocalBackbone', window_sizes=WINDOWS)),
    # 7 tokens are 28 pixels in the first stage, but 224 in the last, which is no local attention in so small an image.
    'lsa-32px': Arm(
        'LSA only, 32 pixels', lambda arch, size: dict(type='TwinsLocalBackbone', window_sizes=(7, 4, 2, 1))
    ),
    'gsa': Arm(
        'GSA only',
        lambda arch, size: dict(type='TwinsPCPVTBackbone', sr_ratios=PUBLISHED_SR_RATIOS, norm_after_stage=True),
    ),
}


def backbone_of(name: str, arch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The backbone of an arm, as a config has it.

    Args:
        name: A key of :data:`ARMS`.
        arch: ``embed_dims``, ``depths``, ``num_heads`` and ``mlp_ratios``.
        size: Side of the images, in pixels.

    Returns:
        ``type``, ``arch``, windows and ratios; the rate of stochastic depth is 0.

    Raises:
        ValueError: There is no such arm.
    """
    if name not in ARMS:
        raise ValueError(f'arm {name!r} is unknown: choose one of {", ".join(ARMS)}')
    return dict(arch=dict(arch), drop_path_rate=0.0) | ARMS[name].backbone(arch, size)


def trained_as(name: str, arch: Mapping[str, Any], size: int) -> str:
    """The first arm with the same backbone, whose trainings count for this one too."""
    wanted = backbone_of(name, arch, size)
    return next(other for other in ARMS if other == name or backbone_of(other, arch, size) == wanted)
