"""The picture of a training: a panel per curve, marks where a loss is not finite, findings in their colours."""

import math
from pathlib import Path

import numpy as np
import pytest
from runs import SVT_S, recipe_of, svt_s_records, write_run

from mmtwins.analysis.run_check import Finding, Report, check_run
from mmtwins.analysis.run_figures import draw_run
from mmtwins.analysis.run_findings import Curve
from mmtwins.analysis.run_log import read_run

cv2 = pytest.importorskip('cv2')
BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)


def read_picture(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def count_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= 2).sum())


def panels(picture: np.ndarray, rows: int) -> list[np.ndarray]:
    height, width = picture.shape[:2]
    return [
        picture[row * height // rows : (row + 1) * height // rows, column * width // 3 : (column + 1) * width // 3]
        for row in range(rows)
        for column in range(3)
    ]


def test_every_curve_has_a_panel_and_the_findings_follow(tmp_path: Path) -> None:
    report = check_run(read_run(write_run(tmp_path, svt_s_records(17_000), recipe_of(SVT_S))))
    assert len(report.curves) == 5
    *drawn, text = panels(read_picture(draw_run(report, tmp_path / 'deep' / 'run.png')), 2)
    assert all(count_colour(panel, BLUE) > 50 for panel in drawn)
    assert count_colour(text, GREEN) > 50 and count_colour(text, ORANGE) == 0


def test_losses_that_are_not_finite_are_marked_and_what_is_off_stands_out(tmp_path: Path) -> None:
    records = svt_s_records(1000)
    clean = read_picture(
        draw_run(check_run(read_run(write_run(tmp_path / 'a', records, recipe_of(SVT_S)))), tmp_path / 'a.png')
    )
    records[10]['decode.loss_ce'] = records[10]['loss'] = math.inf
    report = check_run(read_run(write_run(tmp_path / 'b', records, recipe_of(SVT_S))))
    lost = read_picture(draw_run(report, tmp_path / 'b.png'))
    assert count_colour(panels(clean, 2)[1], ORANGE) == 0 < count_colour(panels(lost, 2)[1], ORANGE)
    assert count_colour(lost, ORANGE) > count_colour(panels(lost, 2)[1], ORANGE) + 50


@pytest.mark.parametrize('values', [[], [1.0], [math.nan], [0.0, 0.0], [1.0, 2.0]])
def test_short_and_empty_curves_can_be_drawn(values: list[float], tmp_path: Path) -> None:
    iterations = np.arange(1, len(values) + 1)
    curve = Curve(iterations, np.array(values, float), np.full(len(values), math.nan), 'nothing')
    report = Report('a model', 1, None, [Finding('loss', 'note', 'a note')], dict(loss=curve))
    assert draw_run(report, tmp_path / 'run.png').read_bytes().startswith(b'\x89PNG')
