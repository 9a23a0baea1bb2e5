"""One attention map over its image: a stage and a head of the user's choice."""

from typing import NamedTuple

import cv2
import numpy as np

from ..analysis.attention_maps import AttentionMap
from ..analysis.inspection import Inspection

SIDE = 800  # pixels, the long side of the picture
MARGIN = 1  # neighbouring windows that are shown on each side of the window of local attention
AVERAGE = 0  # in place of the number of a head: the average of all heads
KINDS = {'LSA': 'local', 'GSA': 'global'}


class Heat(NamedTuple):
    """A drawn attention map.

    Attributes:
        picture: (H, W, 3) RGB uint8.
        caption: What it shows, in one or two sentences.
        largest: Largest weight of a key, in percent; the light end of the colours.
    """

    picture: np.ndarray
    caption: str
    largest: float


def draw_heat(inspection: Inspection, stage: int, kind: str, head: int = AVERAGE) -> Heat:
    """Draw the weights of the keys that a point attends to as colours over the image.

    Args:
        inspection: Image and attention maps of one point, for the last block of each kind in each stage.
        stage: Stage, counted from 1.
        kind: ``'LSA'`` or ``'GSA'``.
        head: Head, counted from 1; ``AVERAGE`` takes the mean of all.

    Returns:
        Picture and caption. Local attention is shown enlarged, with the neighbouring windows.

    Raises:
        ValueError: There is no such map or head.
    """
    found = next((one for one in inspection.maps if (one.stage, one.kind) == (stage, kind)), None)
    if found is None:
        raise ValueError(f'stage {stage} has no {KINDS.get(kind, kind)} attention: choose another stage or kind')
    heads = len(found.weights)
    if not 0 <= head <= heads:
        raise ValueError(f'stage {stage} has no head {head}: choose one from 1 to {heads}, or their average')
    weights = found.weights.mean(axis=0) if head == AVERAGE else found.weights[head - 1]
    left, top, right, bottom = _shown(inspection, found)
    scale = SIDE / max(right - left, bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    x = left + (np.arange(width) + 0.5) / scale  # in pixels of the image
    y = top + (np.arange(height) + 0.5) / scale
    rows, columns = (np.clip(axis.astype(int), 0, size - 1) for axis, size in zip((y, x), inspection.image.shape))
    grey = cv2.cvtColor(inspection.image[rows][:, columns], cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    share, has_key = _spread(found, weights, x * inspection.scale[0], y * inspection.scale[1])
    picture = np.where(has_key[..., None], 0.35 * grey + 0.65 * _viridis(share / max(weights.max(), 1e-12)), 0.7 * grey)
    picture = np.ascontiguousarray(picture.astype(np.uint8))
    side = found.stride
    corners = np.array([found.token[::-1], (found.token[1] + 1, found.token[0] + 1)]) * side / inspection.scale
    start, end = (tuple(int(value) for value in np.round((corner - (left, top)) * scale)) for corner in corners)
    for colour, thickness in (((0, 0, 0), 5), ((255, 157, 92), 3)):
        cv2.rectangle(picture, start, end, colour, thickness)
    point = np.round((np.array(found.point) / inspection.scale - (left, top)) * scale)
    for colour, thickness in (((0, 0, 0), 6), ((255, 255, 255), 2)):
        cv2.drawMarker(picture, tuple(int(value) for value in point), colour, cv2.MARKER_CROSS, 24, thickness)
    which = f'average of {heads} heads' if head == AVERAGE else f'head {head} of {heads}'
    which = which if heads > 1 else 'its only head'
    keys = 'its window of {0} x {1} tokens' if kind == 'LSA' else 'the whole image in {0} x {1} keys'
    caption = (
        f'Stage {stage}, {KINDS[kind]} attention, {which}: the token of the point attends to '
        f'{keys.format(*weights.shape)}.'
    )
    if not found.has_own_token:
        caption += ' No token covers the point, so the nearest is taken.'
    return Heat(picture, caption, 100 * float(weights.max()))


def _shown(inspection: Inspection, found: AttentionMap) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is drawn, in pixels of the image."""
    height, width = inspection.image.shape[:2]
    if found.kind == 'GSA':
        return 0, 0, width, height
    rows, columns = (side * found.stride for side in found.size)
    row, column = (start * found.stride for start in found.origin)
    left, top = (column - MARGIN * columns) / inspection.scale[0], (row - MARGIN * rows) / inspection.scale[1]
    right = (column + (1 + MARGIN) * columns) / inspection.scale[0]
    bottom = (row + (1 + MARGIN) * rows) / inspection.scale[1]
    return max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)


def _spread(found: AttentionMap, weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of the key at each place of a grid, (len(y), len(x)), and whether there is one."""
    row, column = (
        np.floor((along - start * found.stride) / (side * found.stride)).astype(int)
        for along, start, side in zip((y, x), found.origin, found.key_size)
    )
    rows, columns = weights.shape
    has_key = ((row >= 0) & (row < rows))[:, None] & ((column >= 0) & (column < columns))[None]
    return weights[np.clip(row, 0, rows - 1)][:, np.clip(column, 0, columns - 1)], has_key


def _viridis(share: np.ndarray) -> np.ndarray:
    """Colours (..., 3) in 0..255 of shares from 0 to 1."""
    from matplotlib import colormaps

    return 255 * colormaps['viridis'](share)[..., :3]
