"""Pareto fronts as tables and data."""

import json

from mmtwins.analysis.front import Setting
from mmtwins.analysis.front_report import excerpt, front_data, front_table


def settings(*macs: int) -> list[Setting]:
    return [Setting(one * 10**9, 2 * 10**6, 49, (7, 8), (9, 4), ('pool', 'conv')) for one in macs]


def test_an_excerpt_is_even_and_leaves_dear_settings_out() -> None:
    front = settings(*range(10, 31))
    assert [one.macs // 10**9 for one in excerpt(front, 3)] == [10, 15, 20]
    assert excerpt(front, 100) == front[:11]
    assert excerpt(front[:1], 8) == front[:1]


def test_the_table_has_the_published_setting_first() -> None:
    table = front_table(dict(pool=settings(10, 11)), settings(12)[0], 'title')
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ['conv (published)', 'pool', 'pool']
    assert cells[1][0] == '7 8' and cells[2][0] == '9 4'
    assert cells[3:] == [['49'] * 3, ['2.00'] * 3, ['12.00', '10.00', '11.00']]


def test_data_can_be_json() -> None:
    ((kind, (first, _)),) = json.loads(json.dumps(front_data(dict(pool=settings(10, 11))))).items()
    assert kind == 'pool' and first == dict(
        macs=10**10,
        parameters=2 * 10**6,
        keys=49,
        window_sizes=[7, 8],
        sr_ratios=[9, 4],
        subsampling=['pool', 'conv'],
    )
