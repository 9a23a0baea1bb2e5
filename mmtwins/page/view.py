"""The data that the browser draws: the image, the classes present, and where each of them is."""

import base64
import zlib

import cv2
import numpy as np

from ..inference.overlay import enlargement, inner_points
from .kept import KeptResult

SIDE = 1600  # pixels, the longest side of what is sent
# Masataka Okabe's and Kei Ito's colours, which colour-blind readers tell apart.
OKABE_ITO = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (0, 0, 0),
)  # fmt: skip
PALETTES = {
    'model': "The model's colours",
    'okabe-ito': 'Okabe-Ito: safe for colour-blind readers',
    'cividis': 'Cividis: dark to light, safe for colour-blind readers',
}


def choose_colours(name: str, kept: KeptResult) -> tuple[tuple[int, int, int], ...]:
    """Choose the colours of the classes of a prediction.

    Args:
        name: A key of ``PALETTES``. The palettes for colour-blind readers give each class in the prediction a colour of its
            own. The eight colours of Okabe and Ito repeat if there are more classes; their numbers tell the classes apart.
        kept: The prediction.

    Returns:
        One RGB colour in 0..255 per class.

    Raises:
        ValueError: There is no such palette.
    """
    if name not in PALETTES:
        raise ValueError(f'there is no palette {name!r}: choose one of {", ".join(PALETTES)}')
    if name == 'model':
        return kept.info.palette
    number = len(kept.info.classes)
    places = list(range(number)) if number <= len(OKABE_ITO) else [label for label, _ in _present(kept)]
    if name == 'okabe-ito':
        shades = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(places))]
    else:
        from matplotlib import colormaps

        found = (255 * colormaps['cividis'](np.linspace(0, 1, max(len(places), 2)))[:, :3]).round().astype(int)
        shades = [(int(red), int(green), int(blue)) for red, green, blue in found]
    colours = [(128, 128, 128)] * number
    for place, shade in zip(places, shades):
        colours[place] = shade
    return tuple(colours)


def make_view(kept: KeptResult) -> dict:
    """Collect everything that ``page.js`` draws, ready for JSON.

    Args:
        kept: The prediction.

    Returns:
        ``kind``, ``width`` and ``height`` of the drawing in pixels, ``size`` of the image in pixels, ``image`` (data URL),
        ``classes`` (those present: index, number, name, colours by palette, and of a segmentation the share of the image in
        percent) and ``all_classes`` (how many the model has).

        A segmentation has ``labels``, a class index per pixel of the drawing in ``bytes`` bytes, deflated, in base64; and
        ``marks``, places for the numbers: class index, x, y. A detection has ``instances`` (class index, score, box, and
        ``crop``: left, top, width and height of the mask) and ``masks``: the bits of each inside its crop, deflated, in base64.
    """
    height, width = kept.image.shape[:2]
    scale = min(SIDE / max(height, width), enlargement(kept.image))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(kept.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    encoded, jpeg = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert encoded
    view: dict = dict(
        kind='segmentation' if kept.is_segmentation else 'detection',
        width=size[0],
        height=size[1],
        size=[width, height],
        image='data:image/jpeg;base64,' + base64.b64encode(jpeg.tobytes()).decode(),
        classes=_list_classes(kept),
        all_classes=len(kept.info.classes),
    )
    if kept.is_segmentation:
        labels = cv2.resize(kept.labels, size, interpolation=cv2.INTER_NEAREST)
        bytes_each = 1 if len(kept.info.classes) < 256 else 2
        view.update(bytes=bytes_each, labels=_pack(labels.astype(f'<u{bytes_each}').tobytes()))
        margin = max(14, round(0.02 * max(size)))
        view['marks'] = [
            [int(label), *place]
            for label in np.unique(labels)
            if 0 <= label < len(kept.info.classes)
            for place in inner_points(labels == label, margin=0.7 * margin)
        ]
    else:
        view.update(_instances(kept, size, scale))
    return view


def _list_classes(kept: KeptResult) -> list[dict]:
    palettes = {name: choose_colours(name, kept) for name in PALETTES}
    first = int(kept.info.reduce_zero_label)
    return [
        dict(
            index=label,
            number=label + first,
            name=kept.info.classes[label],
            share=share,
            colours={name: palette[label] for name, palette in palettes.items()},
        )
        for label, share in _present(kept)
    ]


def _present(kept: KeptResult) -> list[tuple[int, float | None]]:
    """The classes in a prediction, the most frequent first, with their share of a label map in percent."""
    values, counts = np.unique(kept.labels, return_counts=True)
    order = [i for i in np.argsort(-counts, kind='stable') if 0 <= values[i] < len(kept.info.classes)]
    size = max(1, kept.labels.size)
    return [(int(values[i]), 100 * float(counts[i]) / size if kept.is_segmentation else None) for i in order]


def _instances(kept: KeptResult, size: tuple[int, int], scale: float) -> dict:
    """Instances, the highest score first, and the bits of their masks."""
    instances, bits = [], bytearray()
    rows, columns = (((np.arange(number) + 0.5) / scale).astype(int) for number in size[::-1])
    for i, (label, score, box) in enumerate(zip(kept.labels, kept.scores, kept.boxes)):
        one = dict(label=int(label), score=float(score), box=[float(value) * scale for value in box])
        mask = kept.mask(i)
        if mask is not None:
            small = np.ascontiguousarray(mask[:, columns.clip(max=mask.shape[1] - 1)][rows.clip(max=mask.shape[0] - 1)])
            left, top, width, height = cv2.boundingRect(small.view(np.uint8))
            one['crop'] = [left, top, width, height]
            bits += np.packbits(small[top : top + height, left : left + width]).tobytes()
            if not any(box):  # a model of masks only
                one['box'] = [left, top, left + width, top + height]
        instances.append(one)
    return dict(instances=instances, masks=_pack(bytes(bits)))


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()
