"""Published windows beside calibrated ones."""

import pytest

from mmtwins.analysis import comparison
from mmtwins.analysis.comparison import compare_calibrated, comparison_table


def test_calibrated_windows_cost_less_at_larger_sizes() -> None:
    rows = compare_calibrated('small', [224, 512])
    assert [(row.side, row.setting) for row in rows] == [
        (side, setting) for side in (224, 512) for setting in ('k = 7', 'calibrated')
    ]
    assert rows[0][2:] == rows[1][2:]  # the published model is the calibrated one at 224
    assert rows[3].macs < rows[2].macs and rows[3].window_sizes == (13, 8, 7, 7)
    assert all(row.seconds is None for row in rows)
    lines = comparison_table(rows)
    assert '| 512 x 512 | calibrated | 13 8 7 7 | 14 9 4 2 | 31.2 | 15.44 | 0.93 |' in lines
    assert lines[-1] == ''


def test_times_are_relative_to_the_first_row_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((0.4, 0.1))
    monkeypatch.setattr(comparison, 'time_forward', lambda model, x, min_seconds: next(seconds))
    lines = comparison_table(compare_calibrated('small', [64], measure=True))
    assert [line.split(' | ')[-2:] for line in lines[2:4]] == [['400.0', '1.00 |'], ['100.0', '0.25 |']]
