"""The paper's cost model applied to feature maps: its own numbers, and the table of them."""

import io

import pytest
from rich.console import Console

from mmtwins.analysis.cost_report import keys_sentence, report_costs, stages_table


def test_the_papers_own_numbers() -> None:
    reports = report_costs('small', 224, 224)
    assert [(r.height, r.best_integer_k) for r in reports] == [(224, 15), (56, 7), (28, 5), (14, 4), (7, 3)]
    assert [r.keys for r in reports[1:]] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert [r.sr_keys for r in reports[1:]] == [(7, 7)] * 4


def test_the_table_has_a_row_per_map_with_its_numbers() -> None:
    console = Console(width=140, file=io.StringIO())
    console.print(stages_table(report_costs('small', 224, 448, k=8), 'the title'))
    lines = console.file.getvalue().splitlines()
    assert lines[0].strip() == 'the title'
    for row in ('a token per pixel 224 x 448', 'stage 1 56 x 112', 'stage 4 7 x 14'):
        assert any(row in ' '.join(line.replace('│', ' ').split()) for line in lines), row
    assert any('at k = 8' in line for line in lines)


def test_the_sentence_names_the_keys_of_both() -> None:
    text = keys_sentence(report_costs('small', 224, 224))
    assert '8 x 8, 4 x 4, 2 x 2, 1 x 1 keys' in text
    assert '8 4 2 1, keeps at least 7 x 7' in text


def test_an_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match='16 x 16 pixels leave no token in the last stage: give at least 32 x 32'):
        report_costs('small', 16, 16)
