"""What the browser is given: it can be drawn into the same picture as the prediction."""

import base64
import json
import zlib

import cv2
import numpy as np
import pytest

from mmtwins.page.view import OKABE_ITO, PALETTES, SIDE, choose_colours, make_view


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def picture_of(view: dict) -> np.ndarray:
    head, _, content = view['image'].partition(',')
    assert head == 'data:image/jpeg;base64'
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_segmentation_is_sent_pixel_by_pixel(segmented):
    view = json.loads(json.dumps(make_view(segmented)))
    assert view['kind'] == 'segmentation' and view['size'] == [96, 128] and view['all_classes'] == 9
    labels = np.frombuffer(unpack(view['labels']), np.uint8).reshape(view['height'], view['width'])
    np.testing.assert_array_equal(labels[::5, ::5], segmented.labels)  # small images are enlarged by a whole factor
    difference = np.abs(picture_of(view)[2::5, 2::5].astype(int) - segmented.image)
    assert difference.mean() < 4
    present, counts = np.unique(segmented.labels, return_counts=True)
    assert {one['index'] for one in view['classes']} == set(present.tolist())
    assert sum(one['share'] for one in view['classes']) == pytest.approx(100)
    first = view['classes'][0]
    assert first['index'] == present[counts.argmax()] and first['number'] == first['index'] + 1
    assert first['name'] == segmented.info.classes[first['index']]
    for label, x, y in view['marks']:
        assert labels[y, x] == label


def test_instances_are_sent_with_the_bits_of_their_masks(detected):
    view = json.loads(json.dumps(make_view(detected)))
    bits, start = unpack(view['masks']), 0
    assert len(view['instances']) == len(detected.scores) > 2
    for i, one in enumerate(view['instances']):
        left, top, width, height = one['crop']
        length = -(-width * height // 8)
        part = np.unpackbits(np.frombuffer(bits[start : start + length], np.uint8))[: width * height]
        start += length
        mask = np.zeros((view['height'], view['width']), bool)
        mask[top : top + height, left : left + width] = part.reshape(height, width)
        np.testing.assert_array_equal(mask[::5, ::5], detected.mask(i))
        np.testing.assert_allclose(one['box'], 5 * detected.boxes[i], rtol=1e-5)
        assert one['score'] == pytest.approx(detected.scores[i]) and one['label'] == detected.labels[i]
    assert start == len(bits)


def test_large_images_are_sent_smaller(segmented):
    from copy import copy

    large = copy(segmented)
    large.image = np.zeros((100, 4000, 3), np.uint8)
    large.labels = np.zeros((100, 4000), np.int16)
    view = make_view(large)
    assert (view['width'], view['height'], view['size']) == (SIDE, 40, [4000, 100])
    assert len(unpack(view['labels'])) == 40 * SIDE


def test_more_than_255_classes_take_two_bytes(segmented):
    from copy import copy
    from dataclasses import replace

    many = copy(segmented)
    many.info = replace(many.info, classes=tuple(map(str, range(300))), palette=((0, 0, 0),) * 300)
    many.labels = np.full_like(many.labels, 299)
    view = make_view(many)
    assert set(np.frombuffer(unpack(view['labels']), '<u2').tolist()) == {299} and view['bytes'] == 2


def test_palettes_give_the_classes_present_different_colours(segmented, detected):
    for kept in (segmented, detected):
        present = np.unique(kept.labels)
        for name in PALETTES:
            colours = choose_colours(name, kept)
            assert len(colours) == len(kept.info.classes)
            shown = [colours[label] for label in present[: len(OKABE_ITO)]]
            assert len(set(shown)) == len(shown)
    assert choose_colours('model', segmented) == segmented.info.palette
    assert choose_colours('okabe-ito', detected) == OKABE_ITO[:6]  # few classes keep their colours in every image
    with pytest.raises(ValueError, match='okabe-ito, cividis'):
        choose_colours('jet', segmented)
