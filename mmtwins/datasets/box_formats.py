"""Recognise by statistics in which format boxes are written; COCO's is x, y, width, height."""

from dataclasses import dataclass

import numpy as np

RIGHT = 'x, y, width, height'
FITTING = 0.98  # share of boxes that fit in a right reading; a few boxes are wrong in any file
DOUBTFUL = 0.9  # share of boxes inside their images below which another reading is tried
MASKED = 0.5  # share of boxes around their masks below which another reading is tried


@dataclass
class Verdict:
    """The format in which boxes are written.

    Attributes:
        format: :data:`RIGHT`, or the name of another reading.
        reason: Evidence for another reading, with the share of boxes that fit.
        off_mask: Boxes that are not around their mask, (N,) bool.
        compared: Boxes whose mask is known, (N,) bool.
    """

    format: str
    reason: str
    off_mask: np.ndarray
    compared: np.ndarray


def recognise(boxes: np.ndarray, sizes: np.ndarray, areas: np.ndarray, extents: np.ndarray | None) -> Verdict:
    """Find the reading of boxes that fits their masks, or else their stated areas, or else their images.

    Args:
        boxes: Boxes of four finite numbers, (N, 4).
        sizes: Height and width of their images, in pixels, (N, 2).
        areas: Stated areas, in pixels, (N,).
        extents: x1, y1, x2, y2 of their masks, (N, 4), NaN for a box without a mask; None if there are no masks.

    Returns:
        The reading and its evidence. If the evidence is weak, the reading is x, y, width, height.
    """
    number = len(boxes)
    known = np.zeros(number, bool) if extents is None else np.isfinite(extents).all(1)
    none = Verdict(RIGHT, '', np.zeros(number, bool), known)
    if not number:
        return none
    readings = read_all(boxes, sizes)
    small = (np.abs(boxes) <= 1).all(1)
    if small.mean() > 0.95 and np.median(sizes) > 2:
        return Verdict(
            'shares of the image from 0 to 1', f'{small.mean():.0%} have no number above 1', none.off_mask, known
        )
    if extents is not None and known.any():
        around = {name: _near(corners[known], extents[known]) for name, corners in readings.items()}
        shares = {name: near.mean() for name, near in around.items()}
        best = max(shares, key=lambda name: shares[name])
        if shares[RIGHT] < MASKED and shares[best] > DOUBTFUL:
            return Verdict(best, f'{shares[best]:.0%} are then around their masks', none.off_mask, known)
        none.off_mask[known] = ~around[RIGHT]
        if shares[RIGHT] >= MASKED:
            return none
    right_area = {name: _has_area(corners, areas).mean() for name, corners in readings.items()}
    best = max(right_area, key=lambda name: right_area[name])
    if best != RIGHT and right_area[best] > DOUBTFUL and right_area[RIGHT] < 1 - DOUBTFUL:
        return Verdict(best, f'{right_area[best]:.0%} then have the area that is stated', none.off_mask, known)
    inside = {
        name: _inside(readings[name], sizes).mean()
        for name in (RIGHT, 'x1, y1, x2, y2', 'the centre, width and height')
    }
    best = max(inside, key=lambda name: inside[name])
    if inside[RIGHT] < DOUBTFUL and inside[best] >= FITTING:
        reason = f'{inside[best]:.0%} are then inside of their images, otherwise {inside[RIGHT]:.0%}'
        return Verdict(best, reason, none.off_mask, known)
    return none


def read_all(boxes: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Corners x1, y1, x2, y2 in pixels, (N, 4), in each reading; NaN where a reading makes no box."""
    first, second = boxes[:, :2], boxes[:, 2:]
    scale = sizes[:, ::-1]
    corners = {
        RIGHT: (first, first + second),
        'x1, y1, x2, y2': (first, second),
        'the centre, width and height': (first - second / 2, first + second / 2),
        'y, x, height, width': (first[:, ::-1], (first + second)[:, ::-1]),
        'y1, x1, y2, x2': (first[:, ::-1], second[:, ::-1]),
        'thousandths of the image': (first * scale / 1000, second * scale / 1000),
    }
    readings = {}
    for name, (low, high) in corners.items():
        joined = np.concatenate([low, high], 1)
        joined[(high <= low).any(1)] = np.nan
        readings[name] = joined
    return readings


def outside_share(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The share of each box's area (x, y, width, height) outside its image, (N,); two pixels are tolerated as rounding."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    limit = sizes[:, ::-1]
    inner = np.clip(np.minimum(high, limit + 2) - np.maximum(low, -2), 0, None).prod(1)
    whole = np.maximum((high - low).prod(1), 1e-9)
    return np.where((boxes[:, 2:] > 0).all(1), np.clip(1 - inner / whole, 0, 1), 0)


def _near(corners: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Whether corners match those of the masks, within three pixels or a tenth of the mask's sides."""
    slack = np.maximum(3, 0.1 * (extents[:, 2:] - extents[:, :2]))
    difference = np.abs(np.nan_to_num(corners, nan=1e12) - extents)
    return (difference <= np.concatenate([slack, slack], 1)).all(1)


def _has_area(corners: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Whether width x height is the stated area, within one percent."""
    found = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.abs(np.nan_to_num(found, nan=-1) - areas) <= 0.01 * np.maximum(areas, 1)


def _inside(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether corners are in the image, within two pixels or a fiftieth of its sides."""
    limit = sizes[:, ::-1]
    slack = np.maximum(2, 0.02 * limit)
    corners = np.nan_to_num(corners, nan=1e12)
    return np.all((corners[:, :2] >= -slack) & (corners[:, 2:] <= limit + slack), axis=1)
