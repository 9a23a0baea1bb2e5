"""Charts of costs: the curves and what is marked on them."""

import numpy as np
import pytest

from mmtwins.analysis import cost_figures
from mmtwins.analysis.comparison import compare_calibrated
from mmtwins.analysis.cost import pareto_front, setting_of
from mmtwins.analysis.cost_figures import draw_attention_idea, draw_comparison, draw_cost_curves, draw_front
from mmtwins.analysis.cost_report import report_costs
from mmtwins.analysis.timing import Measurement

pytest.importorskip('matplotlib')


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that are saved."""
    figures, save = [], cost_figures.save_figure
    monkeypatch.setattr(
        cost_figures, 'save_figure', lambda figure, path: (figures.append(figure), save(figure, path))[1]
    )
    return figures


def test_cost_curves_have_their_minimum_at_the_mark(saved: list, tmp_path) -> None:
    stages = report_costs('small', 224, 224)
    path = draw_cost_curves(stages, tmp_path / 'deep/cost.png')
    assert path.read_bytes().startswith(b'\x89PNG')
    axes = saved[0].axes
    assert len(axes) == 5
    for axis, stage in zip(axes, stages):
        lines = {line.get_label(): line for line in axis.lines}
        sides, costs = lines['sum'].get_data()
        assert sides[np.argmin(costs)] == pytest.approx(stage.best_k, rel=0.03)
        assert lines['minimum'].get_xdata()[0] == stage.best_k


def test_measured_times_get_a_second_row(saved: list, tmp_path) -> None:
    stages = report_costs('small', 64, 64)[1:3]
    measured = [[Measurement(2, 100, 0.2), Measurement(7, 50, 0.1)], []]
    draw_cost_curves(stages, tmp_path / 'cost.png', measured)
    titles = [axis.get_title() for axis in saved[0].axes]
    assert titles[2] == 'fastest at k = 7: 100.00 ms' and titles[3] == ''


def test_the_comparison_and_the_idea_are_drawn(tmp_path) -> None:
    rows = compare_calibrated('small', [64, 128])
    for path in (draw_comparison(rows, tmp_path / 'a.png'), draw_attention_idea(tmp_path / 'b.png')):
        assert path.read_bytes().startswith(b'\x89PNG')


def test_fronts_are_drawn_beside_the_published_setting(saved: list, tmp_path) -> None:
    fronts = {kind: pareto_front('small', 512, 512, subsampling=kind) for kind in ('conv', 'pool')}
    draw_front(fronts, setting_of('small', 512, 512), tmp_path / 'front.png')
    left, right, bar = saved[0].axes
    drawn = [one for front in fronts.values() for one in front if one.macs <= 2 * fronts['pool'][0].macs]
    points = np.concatenate([dots.get_offsets() for dots in left.collections])
    assert len(points) == len(drawn)
    np.testing.assert_allclose(sorted(points[:, 1]), sorted(one.macs / 1e9 for one in drawn))
    lines = {line.get_label(): line.get_data() for line in right.lines}
    assert [(list(x), list(y)) for x, y in [lines['k = 7']]] == [([256], [pytest.approx(16.572, abs=1e-3)])]
    x, y = lines['conv']
    assert list(x) == sorted(set(x)) and list(y) == sorted(y) and y[0] == pytest.approx(15.44, abs=0.01)
    assert bar.get_ylabel() == 'keys'


def test_a_front_of_one_setting_is_drawn(tmp_path) -> None:
    front = pareto_front('small', 64, 64, subsampling='pool')[:1]
    assert draw_front(dict(pool=front), setting_of('small', 64, 64), tmp_path / 'a.png').is_file()
