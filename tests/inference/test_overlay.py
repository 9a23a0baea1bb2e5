"""Predictions painted over images: pixels, legend, enlargement."""

from itertools import pairwise

import numpy as np
import pytest

from mmtwins.datasets.dataset_info import DatasetInfo
from mmtwins.demo.scenes import CLASSES, PALETTE
from mmtwins.inference import overlay
from mmtwins.inference.overlay import draw_instances, draw_segmentation, enlargement

pytest.importorskip('cv2')

FREE_PLACE = overlay._free_place
INFO = DatasetInfo(CLASSES, PALETTE, reduce_zero_label=True)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (128, 128, 3), np.uint8)


def test_the_overlay_shows_labels_and_a_legend_of_the_classes_present(image):
    labels = np.full((128, 128), 4)  # kite
    labels[:, 64:] = 1  # sand
    picture = draw_segmentation(image, labels, INFO)
    assert picture.shape[0] == 640 and picture.shape[1] > 640  # enlarged by 5, the legend to the right
    legend = picture[:, 640:].reshape(-1, 3)
    for i, colour in enumerate(PALETTE):
        assert (legend == colour).all(axis=1).any() == (i in (1, 4)), CLASSES[i]
    expected = 0.6 * np.array(PALETTE[4]) + 0.4 * image[2, 2]
    assert np.abs(picture[12, 12] - expected).max() <= 1


def test_a_fixed_legend_has_one_size_for_all_labels(image):
    few, many = np.zeros((128, 128), int), np.arange(128)[None].repeat(128, 0) % len(CLASSES)
    shapes = {draw_segmentation(image, labels, INFO, fixed_legend=True).shape for labels in (few, many)}
    assert len(shapes) == 1
    assert draw_segmentation(image, few, INFO).shape not in shapes


def test_labels_without_a_class_are_left_unpainted(image):
    picture = draw_segmentation(image, np.full((128, 128), 255), INFO)
    np.testing.assert_array_equal(picture[:640, :640], image.repeat(5, 0).repeat(5, 1))


def test_masks_boxes_and_names_are_shown(image):
    masks = np.zeros((2, 128, 128), bool)
    masks[0, 20:60, 20:60] = masks[1, 50:90, 50:90] = True
    boxes = np.array([[20, 20, 60, 60], [50, 50, 90, 90]], float)
    picture = draw_instances(image, np.array([4, 5]), np.array([0.9, 0.5]), boxes, masks, INFO)
    enlarged = image.repeat(5, 0).repeat(5, 1)
    assert picture.shape == enlarged.shape
    changed = (picture != enlarged).any(axis=2)
    assert changed[masks.any(axis=0).repeat(5, 0).repeat(5, 1)].mean() > 0.95
    assert changed[500:].mean() == 0
    # The first one is on top: half of it and half of what lies below.
    expected = 0.5 * (0.5 * enlarged[275, 275] + 0.5 * np.array(PALETTE[5])) + 0.5 * np.array(PALETTE[4])
    assert np.abs(picture[275, 275] - expected).max() <= 2
    bare = draw_instances(image, np.array([4]), np.array([0.9]), boxes[:1], None, INFO)
    assert (bare[200, 200] == enlarged[200, 200]).all() and (bare[100, 200] == PALETTE[4]).all()


@pytest.mark.parametrize('top', [20, 123])
def test_names_of_instances_at_one_place_do_not_cover_each_other(monkeypatch, image, top):
    names = []
    monkeypatch.setattr(overlay, '_free_place', lambda *args: names.append(place := FREE_PLACE(*args)) or place)
    boxes = np.array([[20, top, 60, 127], [20, top, 61, 127], [22, top, 60, 126]], float)
    draw_instances(image, np.array([4, 5, 6]), np.array([0.9, 0.5, 0.4]), boxes, None, INFO)
    names.sort(key=lambda box: box[1])
    assert all(one[3] < other[1] for one, other in pairwise(names))
    assert names[0][1] >= 0 and names[-1][3] < 640


def test_a_name_stays_where_no_place_is_free():
    assert FREE_PLACE((0, 0, 30, 10), [(0, 0, 30, 15)], 20) == (0, 0, 30, 10)
    assert FREE_PLACE((0, 0, 30, 10), [(31, 0, 60, 10)], 20) == (0, 0, 30, 10)  # free
    assert FREE_PLACE((0, 5, 30, 10), [(20, 0, 60, 10)], 20) == (0, 11, 30, 16)  # below
    assert FREE_PLACE((0, 14, 30, 18), [(20, 12, 60, 18)], 20) == (0, 7, 30, 11)  # above


def test_small_images_are_enlarged_by_a_whole_factor():
    sizes = ((640, 480), (64, 10), (300, 400), (2000, 3000))
    assert [enlargement(np.zeros((*size, 3))) for size in sizes] == [1, 10, 2, 1]


def test_the_legend_of_a_long_thin_image_is_below_it_and_no_larger():
    info = DatasetInfo(tuple(f'class {i}' for i in range(12)), tuple((20 * i, 0, 255 - 20 * i) for i in range(12)))
    image = np.full((50, 5000, 3), 128, np.uint8)
    labels = np.repeat(np.arange(5000)[None] * 12 // 5000, 50, 0)
    painted = draw_segmentation(image, labels, info)
    height, width = painted.shape[:2]
    assert width == 5000 and 50 < height < 100
    squares = {tuple(colour) for colour in painted[60:64].reshape(-1, 3)} & {tuple(colour) for colour in info.palette}
    assert squares == set(info.palette)
    narrow = draw_segmentation(np.ascontiguousarray(image[:, :640]), labels[:, :640] * 12 // 2, info)
    assert narrow.shape[1] == 640  # as many rows as it needs
