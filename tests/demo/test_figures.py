"""Training curves and pictures of predictions."""

import numpy as np
import pytest

from mmtwins.demo.figures import (
    Example,
    Instances,
    choose_examples,
    draw_examples,
    draw_training_curves,
    rate_example,
)

cv2 = pytest.importorskip('cv2')
pytest.importorskip('matplotlib')

CLASSES = ('sand', 'ball', 'kite')
PALETTE = ((221, 204, 119), (204, 102, 119), (51, 34, 136))


def training(*steps, loss=1.0):
    return [dict(lr=1e-3, loss=loss, iter=step, step=step) for step in steps]


def read_picture(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def count_colour(picture, colour, tolerance=2):
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= tolerance).sum())


def test_training_curves(tmp_path):
    records = [*training(10, 20, 30), dict(mIoU=20.0, step=15), dict(mIoU=40.0, step=30)]
    detection = [*training(5, 25), {'coco/segm_mAP_50': 0.4, 'step': 25}]
    runs = {'UPerNet': records, 'Mask R-CNN': detection}
    metrics = {'UPerNet': {'mIoU': 'mIoU'}, 'Mask R-CNN': {'coco/segm_mAP_50': 'mask AP50'}}
    path = draw_training_curves(runs, metrics, tmp_path / 'deep/curves.png')
    picture = read_picture(path)
    height, width = picture.shape[:2]
    blue = (0, 114, 178)
    for row in range(2):
        for column in range(3):
            panel = picture[
                row * height // 2 : (row + 1) * height // 2, column * width // 3 : (column + 1) * width // 3
            ]
            assert count_colour(panel, blue) > 20, (row, column)


def test_percent_and_fraction_share_an_axis(tmp_path):
    """mmseg's 40.0 and COCO's 0.4 are drawn at the same height."""
    seg = draw_training_curves({'a': [dict(mIoU=40.0, step=9)]}, {'a': {'mIoU': 'x'}}, tmp_path / 'seg.png')
    det = draw_training_curves({'a': [{'coco/m': 0.4, 'step': 9}]}, {'a': {'coco/m': 'x'}}, tmp_path / 'det.png')
    assert np.array_equal(read_picture(seg), read_picture(det))


def test_segmentation_examples(tmp_path):
    image = np.zeros((40, 40, 3), np.uint8)
    truth = np.zeros((40, 40), np.uint8)
    truth[:20] = 1
    prediction = np.full((40, 40), 2)
    path = draw_examples(
        dict(a=Example(image, truth, prediction), b=Example(image, truth, prediction)),
        CLASSES,
        PALETTE,
        tmp_path / 'seg.png',
    )
    picture = read_picture(path)
    width = picture.shape[1]
    shades = [tuple(round(0.65 * value) for value in colour) for colour in PALETTE]
    columns = [picture[:, i * width // 3 : (i + 1) * width // 3] for i in range(3)]
    areas = [[count_colour(column, shade) for shade in shades] for column in columns]
    assert areas[0] == [0, 0, 0]
    assert areas[1][0] == pytest.approx(areas[1][1], rel=0.1) and areas[1][2] == 0
    assert areas[2][:2] == [0, 0] and areas[2][2] == pytest.approx(2 * areas[1][0], rel=0.1)


def test_detection_examples(tmp_path):
    image = np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 4:36, 4:36] = True
    truth = Instances(mask, np.array([1]))
    missed = Instances(np.zeros((0, 40, 40), bool), np.zeros(0, int), np.zeros(0))
    found = Instances(mask, np.array([1]), np.array([0.87]))
    picture = read_picture(
        draw_examples(dict(a=Example(image, truth, missed)), CLASSES, PALETTE, tmp_path / 'missed.png')
    )
    shade = tuple(round(0.5 * value) for value in PALETTE[1])
    width = picture.shape[1]
    thirds = [count_colour(picture[:, i * width // 3 : (i + 1) * width // 3], shade) for i in range(3)]
    assert thirds[0] == thirds[2] == 0 < thirds[1]
    both = read_picture(draw_examples(dict(a=Example(image, truth, found)), CLASSES, PALETTE, tmp_path / 'found.png'))
    assert count_colour(both, shade) > 1.8 * thirds[1]


def test_no_examples(tmp_path):
    with pytest.raises(ValueError, match='at least one'):
        draw_examples({}, CLASSES, PALETTE, tmp_path / 'none.png')


def test_a_segmentation_is_rated_by_its_labelled_pixels() -> None:
    truth = np.array([[0, 1], [1, 255]])
    image = np.zeros((2, 2, 3), np.uint8)
    for prediction, rate in (([[0, 1], [1, 0]], 1), ([[0, 1], [0, 0]], 2 / 3), ([[1, 0], [0, 255]], 0)):
        assert rate_example(Example(image, truth, np.array(prediction)), 2) == pytest.approx(rate)
    assert rate_example(Example(image, np.full((2, 2), 255), truth), 2) == 1


def test_instances_are_rated_by_matched_masks() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, 2:], masks[2, 2:, :2] = True, True, True
    truth = Instances(masks[:2], np.array([0, 1]))

    def rate(masks: np.ndarray, labels: list[int]) -> float:
        prediction = Instances(masks, np.array(labels), np.ones(len(labels)))
        return rate_example(Example(np.zeros((4, 4, 3), np.uint8), truth, prediction), 2)

    assert rate(masks[:2], [0, 1]) == 1
    assert rate(masks[:2], [1, 0]) == 0  # other classes
    assert rate(masks[:1], [0]) == pytest.approx(2 / 3)  # one is missed
    assert rate(masks[[0, 1, 2]], [0, 1, 1]) == pytest.approx(4 / 5)  # one too many
    assert rate(masks[[0, 2]], [0, 1]) == pytest.approx(2 * 1.5 / 4)  # half of the second
    assert rate(masks[:0], []) == 0


def test_chosen_examples_go_from_the_best_to_the_worst() -> None:
    truth, image = np.zeros((1, 9), int), np.zeros((1, 9, 3), np.uint8)
    examples = [Example(image, truth, (np.arange(9)[None] < wrong).astype(int)) for wrong in (3, 0, 8, 1, 5)]
    chosen = choose_examples(examples, 2)
    assert {title: int(example.prediction.sum()) for title, example in chosen.items()} == {
        'best of 5': 0,
        'upper quartile': 1,
        'median': 3,
        'worst': 8,
    }
    assert len(choose_examples(examples[:1], 2)) == 4
