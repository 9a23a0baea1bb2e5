"""Training curves."""

import numpy as np
import pytest
from test_examples import count_colour, read_picture

from mmtwins.figures.curves import draw_training_curves, find_metrics

pytest.importorskip('matplotlib')


def training(*steps, loss=1.0):
    return [dict(lr=1e-3, loss=loss, iter=step, step=step) for step in steps]


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


def test_the_best_known_metrics_are_drawn() -> None:
    records = [*training(10), dict(step=10, time=0.1, data_time=0.1, aAcc=80.0, mIoU=40.0, other=3.0)]
    assert find_metrics(records) == dict(mIoU='mIoU', aAcc='aAcc', other='other')
    coco = {f'coco/{kind}_mAP{end}': 0.1 for kind in ('bbox', 'segm') for end in ('', '_50', '_75', '_s', '_m', '_l')}
    assert list(find_metrics([dict(step=1, **coco)]).values()) == ['segm mAP', 'bbox mAP', 'segm mAP 50', 'bbox mAP 50']
    assert find_metrics(training(10)) == {}


@pytest.mark.parametrize('records', [
    [],
    training(10, 20, loss=float('nan')),
    [dict(loss=-3.0, step=1), dict(loss=float('inf'), step=2)],
    [dict(loss=0.5, base_lr=0.1, step=1), dict(step=1, score=float('nan')), dict(step=2, score=250.0)],
])  # fmt: skip
def test_records_of_all_kinds(records: list[dict], tmp_path) -> None:
    path = draw_training_curves({'a': records}, {'a': find_metrics(records)}, tmp_path / 'a.png')
    assert read_picture(path).shape[2] == 3
