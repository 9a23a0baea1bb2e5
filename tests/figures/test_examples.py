"""Predictions beside the truth."""

import numpy as np
import pytest

from mmtwins.figures.examples import Example, Instances, choose_examples, describe_rate, draw_examples, rate_example

cv2 = pytest.importorskip('cv2')
pytest.importorskip('matplotlib')

CLASSES = ('sand', 'ball', 'kite')
PALETTE = ((221, 204, 119), (204, 102, 119), (51, 34, 136))


def read_picture(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def count_colour(picture, colour, tolerance=2):
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= tolerance).sum())


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
        'best of 5: 100 % of the pixels right': 0,
        'median: 67 % of the pixels right': 3,
        'worst: 11 % of the pixels right': 8,
    }
    assert len(choose_examples(examples[:1], 2)) == 3


def test_a_legend_names_the_most_frequent_of_many_classes(tmp_path, monkeypatch) -> None:
    from matplotlib.figure import Figure

    saved = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, path: saved.append(self))
    labels = np.minimum(np.arange(60 * 60).reshape(60, 60) // 25, 99)  # class 99 most of all
    names = [f'class number {i}' for i in range(100)]
    example = Example(np.zeros((60, 60, 3), np.uint8), None, labels)
    draw_examples({'a.jpg': example}, names, [(i, i, i) for i in range(100)], tmp_path / 'a.png')
    (legend,) = saved[0].legends
    words = [text.get_text() for text in legend.get_texts()]
    assert len(words) == 36 and words[-1] == 'class number 99'
    saved[0].canvas.draw()
    box, page = legend.get_window_extent(), saved[0].bbox
    assert box.x0 >= 0 and box.x1 <= page.width and not box.overlaps(saved[0].axes[0].get_window_extent())


def test_boxes_are_outlined_and_names_that_meet_move_apart(tmp_path, monkeypatch) -> None:
    from matplotlib.figure import Figure

    saved = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, path: saved.append(self))
    image = np.zeros((60, 90, 3), np.uint8)
    masks = np.zeros((3, 60, 90), bool)
    masks[:, 20:40, 30:60] = True
    found = Instances(masks, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]), are_boxes=True)
    draw_examples({'a.jpg': Example(image, None, found)}, CLASSES, PALETTE, tmp_path / 'a.png')
    (figure,) = saved
    assert len(figure.axes) == 2  # there is no truth
    assert (figure.axes[1].get_images()[0].get_array() == 0).all()  # nothing is painted over
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert [text.get_text() for text in figure.axes[1].texts] == ['sand 90', 'ball 80', 'kite 70']
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert describe_rate(Example(image, found, found), 3) == 'overlap 1.00'
