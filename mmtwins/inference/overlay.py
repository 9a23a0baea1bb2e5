"""Predictions painted over images: label maps with a numbered legend, instances with masks, boxes and names.

Colours are never the only key: the regions of a label map carry the numbers of the legend and are outlined, instances
carry their names.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..datasets.dataset_info import DatasetInfo
from ..plotting import INK, blend_labels

SMALL = 640  # pixels; an image whose long side is shorter is enlarged by a whole factor, so that text fits into it
WIDE = 4  # a picture is long and thin if one side is more times the other


def draw_segmentation(
    image: np.ndarray, labels: np.ndarray, info: DatasetInfo, fixed_legend: bool = False
) -> np.ndarray:
    """Blend a label map in the classes' colours over its image, with a legend.

    The legend is to the right of the image, or below one that is more than four times as wide as high. It has the
    classes present: colour, number in the label PNG, name and share of the image in percent, the largest first.

    Args:
        image: (H, W, 3) RGB uint8.
        labels: (H, W) class indices.
        info: Classes and colours.
        fixed_legend: Give the legend the same width in every image and shorten it to the height, for videos.

    Returns:
        (H', W', 3) RGB uint8. The image takes the top left corner. A small image is enlarged by the whole factor that
        :func:`enlargement` gives.
    """
    factor = enlargement(image)
    image, labels = _enlarged(image, factor), _enlarged(labels, factor)
    picture = blend_labels(image, labels, info.palette, opacity=0.6)
    _outline_regions(picture, labels)
    first = int(info.reduce_zero_label)
    values, counts = np.unique(labels, return_counts=True)
    order = [i for i in np.argsort(-counts, kind='stable') if 0 <= values[i] < len(info.classes)]
    present = [(int(values[i]), 100 * counts[i] / labels.size) for i in order]
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = _font(_text_height(image))
    for label, _ in present:
        for place in inner_points(labels == label, margin=0.7 * font.size):
            box = draw.textbbox(place, str(label + first), font=font, anchor='mm')
            draw.rectangle(_grown(box, 2), fill='white', outline=INK)
            draw.text(place, str(label + first), font=font, fill=INK, anchor='mm')
    return _add_legend(canvas, present, info, fixed_legend)


def draw_instances(
    image: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None,
    info: DatasetInfo,
) -> np.ndarray:
    """Draw masks, boxes, class names and scores in percent over an image; the highest score is on top.

    Args:
        image: (H, W, 3) RGB uint8.
        labels: (N,) class indices.
        scores: (N,) from 0 to 1, the highest first.
        boxes: (N, 4) left, top, right, bottom in pixels.
        masks: (N, H, W) bool, or None.
        info: Classes and colours.

    Returns:
        (H', W', 3) RGB uint8, enlarged as by :func:`draw_segmentation`.
    """
    factor = enlargement(image)
    picture, boxes = _enlarged(image, factor), factor * boxes
    height = _text_height(picture)
    thin = max(2, height // 7)
    order = range(len(labels) - 1, -1, -1)
    for i in order:
        colour = tuple(info.palette[labels[i]])
        if masks is not None:
            mask = _enlarged(masks[i], factor)
            picture = np.where(mask[..., None], (0.5 * picture + 0.5 * np.array(colour)).astype(np.uint8), picture)
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, (255, 255, 255), thin + 2)
            cv2.drawContours(picture, outlines, -1, colour, thin)
        left, top, right, bottom = (round(float(value)) for value in boxes[i])
        cv2.rectangle(picture, (left, top), (right, bottom), (255, 255, 255), thin + 2)
        cv2.rectangle(picture, (left, top), (right, bottom), colour, thin)
    canvas = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(canvas), _font(height)
    names: list[tuple[float, ...]] = []  # places, that of the highest score first
    for i, text in enumerate(
        texts := [f'{info.classes[label]} {100 * score:.0f}' for label, score in zip(labels, scores)]
    ):
        width = font.getlength(text)
        x = min(max(2.0, float(boxes[i, 0])), max(2, canvas.width - width - 4))
        y = min(max(2.0, float(boxes[i, 1])), max(2, canvas.height - 1.3 * height))
        names.append(_free_place(_grown(draw.textbbox((x, y), text, font=font), 2), names, canvas.height))
    for i in order:
        draw.rectangle(names[i], fill=INK)
        draw.text((names[i][0] + 2, names[i][1] + 2), texts[i], font=font, fill='white', anchor='lt')
    return np.asarray(canvas)


def _free_place(box: tuple[float, ...], taken: Sequence[tuple[float, ...]], height: int) -> tuple[float, ...]:
    """A box (left, top, right, bottom) moved down, or else up, until it covers no other; without such a place as it is."""
    left, top, right, bottom = box
    beside = [one for one in taken if one[0] <= right and left <= one[2]]
    below = sorted(one[3] + 1 for one in beside if one[3] >= top)
    above = sorted((one[1] - 1 - bottom + top for one in beside if one[1] <= bottom), reverse=True)
    for place in (top, *below, *above):
        end = place + bottom - top
        if place >= 0 and end < height and not any(one[1] <= end and place <= one[3] for one in beside):
            return left, place, right, end
    return box


def enlargement(image: np.ndarray) -> int:
    """The whole factor by which an image (H, W, 3) is enlarged."""
    return max(1, round(SMALL / max(image.shape[:2])))


def _enlarged(x: np.ndarray, factor: int) -> np.ndarray:
    return x.repeat(factor, 0).repeat(factor, 1)


def _add_legend(
    picture: Image.Image, present: Sequence[tuple[int, float]], info: DatasetInfo, fixed: bool
) -> np.ndarray:
    """Put a legend of (class index, percent) to the right of a picture, or below one that is much wider than high."""
    font = _font(_text_height(np.asarray(picture)))
    line, space = round(1.6 * font.size), round(0.5 * font.size)
    rows = max(1 if fixed else 8, (picture.height - space) // line)
    first = int(info.reduce_zero_label)
    texts = [f'{label + first} {info.classes[label]}  {_percent(share)}' for label, share in present]
    if picture.width > WIDE * picture.height and not fixed:
        return _add_legend_below(picture, present, texts, info, font)
    if fixed and len(texts) > rows:
        texts[rows - 1 :] = [f'and {len(texts) - rows + 1} more']
    longest = [f'{len(info.classes)} {name}  99.9 %' for name in info.classes] if fixed else texts
    width = 2 * space + line + max((round(font.getlength(text)) for text in longest), default=0)
    columns = 1 if fixed else max(1, -(-len(texts) // rows))
    height = max(picture.height, 0 if fixed else 2 * space + line * min(rows, len(texts)))
    canvas = Image.new('RGB', (picture.width + columns * width, height), 'white')
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(texts):
        x, y = picture.width + space + i // rows * width, space + i % rows * line
        is_class = i < len(present) and not text.startswith('and ')
        _draw_entry(draw, x, y, text, font, info.palette[present[i][0]] if is_class else None)
    return np.asarray(canvas)


def _add_legend_below(
    picture: Image.Image,
    present: Sequence[tuple[int, float]],
    texts: Sequence[str],
    info: DatasetInfo,
    font: ImageFont.FreeTypeFont,
) -> np.ndarray:
    """Put the entries of a legend side by side below a picture, in as many rows as they need."""
    line, space = round(1.6 * font.size), round(0.5 * font.size)
    places, x, y = [], space, picture.height + space
    for text in texts:
        width = line + round(font.getlength(text)) + 2 * space
        if x > space and x + width > picture.width:
            x, y = space, y + line
        places.append((x, y))
        x += width
    canvas = Image.new('RGB', (picture.width, y + line if texts else picture.height), 'white')
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for (x, y), text, (label, _) in zip(places, texts, present, strict=True):
        _draw_entry(draw, x, y, text, font, info.palette[label])
    return np.asarray(canvas)


def _draw_entry(
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    text: str,
    font: ImageFont.FreeTypeFont,
    colour: tuple[int, int, int] | None,
) -> None:
    """Draw an entry of a legend at its top left corner: a square of its colour, if it has one, and the text."""
    if colour:
        draw.rectangle((x, y, x + font.size, y + font.size), fill=tuple(colour), outline=INK)
    draw.text((x + round(1.6 * font.size), y + font.size / 2), text, font=font, fill=INK, anchor='lm')


def _outline_regions(picture: np.ndarray, labels: np.ndarray) -> None:
    """Darken the pixels where a region ends, in place."""
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    picture[edge] //= 3


def inner_points(mask: np.ndarray, margin: float) -> list[tuple[int, int]]:
    """In each connected part of a mask (H, W) the pixel (x, y) farthest from its border, where a disc of ``margin`` fits."""
    padded = np.pad(mask, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(padded)
    places = []
    for part in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= 4 * margin**2):
        left, top, width, height = stats[part, :4]
        window = np.s_[top : top + height, left : left + width]
        _, farthest, _, (x, y) = cv2.minMaxLoc(np.where(parts[window] == part, distance[window], 0))
        if part and farthest >= margin:
            places.append((int(left + x - 1), int(top + y - 1)))
    return places


def _percent(share: float) -> str:
    return f'{share:.1f} %' if share >= 0.05 else '< 0.1 %'


def _grown(box: Sequence[float], by: int) -> tuple[float, ...]:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _text_height(image: np.ndarray) -> int:
    """Size of the text for a picture (H, W, 3), in pixels."""
    return max(14, round(0.02 * min(max(image.shape[:2]), WIDE * min(image.shape[:2]))))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont('DejaVu Sans'), size)
