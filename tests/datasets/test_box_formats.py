"""Boxes in other formats are recognised by their masks, areas or images; x, y, width, height are left alone."""

import numpy as np
import pytest

from mmtwins.datasets.box_formats import RIGHT, outside_share, read_all, recognise


def make_boxes(number: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Boxes x, y, width, height anywhere in images of two sizes, and these sizes."""
    rng = np.random.RandomState(0)
    sizes = np.array([(480, 640), (640, 427)])[np.arange(number) % 2]
    sides = rng.uniform(5, 200, (number, 2))
    corners = rng.uniform(0, 1, (number, 2)) * (sizes[:, ::-1] - sides)
    return np.concatenate([corners, sides], 1), sizes


def write_as(name: str, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    first, sides, scale = boxes[:, :2], boxes[:, 2:], sizes[:, ::-1]
    written = {
        RIGHT: (first, sides),
        'x1, y1, x2, y2': (first, first + sides),
        'the centre, width and height': (first + sides / 2, sides),
        'y, x, height, width': (first[:, ::-1], sides[:, ::-1]),
        'y1, x1, y2, x2': (first[:, ::-1], (first + sides)[:, ::-1]),
        'thousandths of the image': (1000 * first / scale, 1000 * (first + sides) / scale),
        'shares of the image from 0 to 1': (first / scale, sides / scale),
    }
    return np.concatenate(written[name], 1)


FORMATS = (RIGHT, 'x1, y1, x2, y2', 'the centre, width and height', 'y, x, height, width', 'y1, x1, y2, x2')
WITH_MASKS = (*FORMATS, 'thousandths of the image', 'shares of the image from 0 to 1')


@pytest.mark.parametrize('name', WITH_MASKS)
def test_masks_show_the_format(name: str) -> None:
    boxes, sizes = make_boxes()
    extents = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    extents[::7] = np.nan  # no mask
    verdict = recognise(write_as(name, boxes, sizes), sizes, np.ones(len(boxes)), extents)
    assert verdict.format == name
    assert not verdict.off_mask.any()


@pytest.mark.parametrize('name', (RIGHT, 'x1, y1, x2, y2', 'shares of the image from 0 to 1'))
def test_areas_show_corners_where_there_are_no_masks(name: str) -> None:
    boxes, sizes = make_boxes()
    boxes[:, :2] /= 4  # all in the upper left: inside of the images in every reading
    assert recognise(write_as(name, boxes, sizes), sizes, boxes[:, 2:].prod(1), None).format == name


@pytest.mark.parametrize('name', (RIGHT, 'x1, y1, x2, y2', 'shares of the image from 0 to 1'))
def test_images_show_corners_where_there_is_nothing_else(name: str) -> None:
    boxes, sizes = make_boxes()
    verdict = recognise(write_as(name, boxes, sizes), sizes, np.ones(len(boxes)), None)
    assert verdict.format == name
    assert verdict.reason if name != RIGHT else not verdict.reason


def test_some_boxes_beside_their_masks_are_named() -> None:
    boxes, sizes = make_boxes(10)
    extents = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    boxes[3, 0] += 50
    verdict = recognise(boxes, sizes, np.ones(10), extents)
    assert verdict.format == RIGHT and verdict.off_mask.tolist() == [i == 3 for i in range(10)]
    assert verdict.compared.all()


def test_boxes_of_whole_objects_that_leave_the_image_are_right() -> None:
    boxes, sizes = make_boxes()
    boxes[::4, 0] -= 100  # as in data of people whose hidden parts are guessed
    assert recognise(boxes, sizes, boxes[:, 2:].prod(1), None).format == RIGHT


def test_no_boxes() -> None:
    none = np.zeros((0, 4))
    assert recognise(none, np.zeros((0, 2)), np.zeros(0), None).format == RIGHT
    assert recognise(none, np.zeros((0, 2)), np.zeros(0), none).format == RIGHT


def test_readings_without_a_box_are_none() -> None:
    readings = read_all(np.array([[10.0, 20.0, 5.0, 30.0]]), np.array([[100, 100]]))
    assert readings[RIGHT].tolist() == [[10, 20, 15, 50]]
    assert np.isnan(readings['x1, y1, x2, y2']).all()
    assert readings['the centre, width and height'].tolist() == [[7.5, 5, 12.5, 35]]


def test_share_outside() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [95, 0, 14, 10], [-2, -2, 10, 10], [500, 0, 10, 10], [0, 0, -5, 5], [0, 0, 0, 0.0]]
    )
    sizes = np.full((6, 2), 100)
    assert outside_share(boxes, sizes).round(2).tolist() == [0, 0.5, 0, 1, 0, 0]
