"""Check masks of a COCO file: whether pycocotools can draw them without harm, and where they are.

pycocotools draws whatever it gets: an infinite coordinate ends the process, a far one takes all memory, and if run lengths
cover only a part of the image, the rest of the mask is random.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from pydantic import ValidationError

from .coco_schema import POLYGONS, RUN_LENGTHS

MEASURED_RUN_LENGTHS = 20_000  # enough to compare boxes with masks; each takes some microseconds


@dataclass
class Masks:
    """The masks of annotations, as far as they are usable.

    Attributes:
        usable: Annotations whose mask MMDetection can train with, (N,) bool.
        extents: x1, y1, x2, y2 of each mask in pixels, (N, 4); NaN where not known.
        faults: Indices of annotations by fault: ``missing``, ``shape``, ``short``, ``far``, ``outside``, ``size``, ``counts``,
            ``empty``.
        details: What is wrong with single annotations, by index.
    """

    usable: np.ndarray
    extents: np.ndarray
    faults: dict[str, list[int]] = field(default_factory=dict)
    details: dict[int, str] = field(default_factory=dict)

    def add(self, fault: str, index: int, detail: str = '') -> None:
        """Note a fault of an annotation."""
        self.faults.setdefault(fault, []).append(index)
        if detail:
            self.details[index] = detail


def inspect_masks(segmentations: Sequence[Any], sizes: np.ndarray) -> Masks:
    """Check all masks of a file.

    Args:
        segmentations: ``segmentation`` of each annotation; None where it has none.
        sizes: Height and width of each annotation's image, in pixels, (N, 2).

    Returns:
        The masks and their faults.
    """
    number = len(segmentations)
    masks = Masks(np.zeros(number, bool), np.full((number, 4), np.nan))
    polygons: list[tuple[int, list]] = []
    codes: list[tuple[int, dict]] = []
    for index, one in enumerate(segmentations):
        if not one:
            masks.add('missing', index)
        elif isinstance(one, list) and _fits(POLYGONS.validator, one):
            polygons.append((index, one))
        elif isinstance(one, dict) and _fits(RUN_LENGTHS.validator, one):
            codes.append((index, one))
        else:
            masks.add('shape', index)
    _inspect_polygons(polygons, sizes, masks)
    _inspect_codes(codes, sizes, masks)
    return masks


def _inspect_polygons(entries: list[tuple[int, list]], sizes: np.ndarray, masks: Masks) -> None:
    parts = [(index, part) for index, one in entries for part in one if len(part) % 2 == 0 and len(part) >= 6]
    short = {index for index, one in entries if any(len(part) % 2 or len(part) < 6 for part in one)}
    for index in sorted(short):
        masks.add('short', index)
    if not parts:
        return
    owners = np.array([index for index, _ in parts])
    lengths = np.fromiter((len(part) for _, part in parts), np.int64, len(parts))
    numbers = np.fromiter(chain.from_iterable(part for _, part in parts), np.float64, lengths.sum())
    points = numbers.reshape(-1, 2)
    starts = np.flatnonzero(np.diff(owners, prepend=-1))  # the first part of each annotation
    first = np.concatenate([[0], np.cumsum(lengths // 2)])[:-1][starts]
    low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    rows = owners[starts]
    masks.extents[rows] = np.concatenate([low, high], 1)
    width_height = sizes[rows][:, ::-1]
    beyond = np.maximum(-low, high - width_height)
    far = (beyond > width_height).any(1)
    outside = (beyond > 2).any(1) & ~far
    masks.usable[rows[~far]] = True
    for fault, where in (('far', far), ('outside', outside), ('empty', (low == high).any(1) & ~far)):
        for one in rows[where].tolist():
            masks.add(fault, one)


def _inspect_codes(entries: list[tuple[int, dict]], sizes: np.ndarray, masks: Masks) -> None:
    from pycocotools import mask as mask_api

    measured: list[tuple[int, dict]] = []
    for index, code in entries:
        height, width = map(int, sizes[index])
        if code['size'] != [height, width]:
            masks.add('size', index, f'{code["size"]} for an image of [{height}, {width}]')
            continue
        counts = code['counts']
        lengths = np.array(counts, np.int64) if isinstance(counts, list) else decode_counts(counts)
        if lengths is None or (lengths < 0).any() or lengths.sum() != height * width:
            shown = 'no run lengths' if lengths is None else f'{int(lengths.sum()):,} of {height * width:,} pixels'
            masks.add('counts', index, shown)
            continue
        masks.usable[index] = True
        if not lengths[1::2].any():
            masks.add('empty', index)
        elif len(measured) < MEASURED_RUN_LENGTHS:
            measured.append((index, code))
    for index, code in measured:
        whole = mask_api.frPyObjects(code, *code['size']) if isinstance(code['counts'], list) else code
        x, y, width, height = mask_api.toBbox(whole)
        masks.extents[index] = x, y, x + width, y + height


def decode_counts(text: str) -> np.ndarray | None:
    """Decode run lengths that are compressed to text.

    Args:
        text: ``counts`` of compressed run lengths.

    Returns:
        Pixels of each run, starting with those outside the mask; None if the text is not in COCO's compressed form.

    Source: ``rleFrString`` of COCO's API, which does not notice wrong text. Each character has five bits with a sign and a
        continuation bit. From the fourth run on, a number is the difference to the last run but one.
    """
    try:
        digits = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(digits) or (digits < 0).any() or (digits > 63).any() or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits & 32 == 0)
    begins = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - begins + 1
    if lengths.max() > 7:  # more than 32 bits
        return None
    place = np.arange(len(digits)) - np.repeat(begins, lengths)
    values = np.add.reduceat((digits & 31) << (5 * place), begins)
    values -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def _fits(schema: Any, value: Any) -> bool:
    try:
        schema.validate_python(value)
    except ValidationError:
        return False
    return True
