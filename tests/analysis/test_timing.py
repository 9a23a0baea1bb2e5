"""Times of forward passes: of what, and at which sizes. No time is judged."""

import torch
from costs import TINY, tiny_backbone
from torch import nn

from mmtwins.analysis.cost import gsa_macs, lsa_macs
from mmtwins.analysis.cost_report import report_costs
from mmtwins.analysis.counting import count
from mmtwins.analysis.timing import Measurement, measure_blocks, time_forward, times_table


def test_measured_k_are_counted_exactly() -> None:
    stage = report_costs(TINY, 64, 64)[1]
    measured = measure_blocks(stage, mlp_ratio=2, min_seconds=0.001)
    assert {stage.best_integer_k, stage.k} <= {m.k for m in measured}
    for m in measured:
        block = tiny_backbone(window_padding='masked').blocks[0]
        attention = (lsa_macs(16, 16, 8, m.k), gsa_macs(16, 16, 8, m.k))
        mlp = 2 * count(block[0].mlp, 16, 8, in_channels=16).total.macs
        assert m.macs == sum(sum(part.values()) for part in attention) + mlp
        assert m.seconds > 0


def test_a_model_is_timed_in_evaluation_mode_without_gradients() -> None:
    seen = []

    class Seen(nn.Module):
        def forward(self, x):
            seen.append((self.training, torch.is_inference_mode_enabled()))
            return x

    assert time_forward(Seen().train(), torch.zeros(1), min_seconds=0.001) > 0
    assert set(seen) == {(False, True)}


def test_the_table_has_a_row_for_each_k_and_marks_the_least_time_of_each_map() -> None:
    reports = report_costs('small', 64, 64)
    measured = [[Measurement(1, 10, 0.002), Measurement(2, 8, 0.001)], [Measurement(2, 8, 0.0005)]]
    measured += [[]] * (len(reports) - len(measured))
    table = times_table(reports, measured, 'times')
    assert [column.header for column in table.columns] == ['k', reports[0].title, reports[1].title]
    assert [list(column.cells) for column in table.columns] == [
        ['1', '2'],
        ['2.00', '[bold]1.00[/bold]'],
        ['', '[bold]0.50[/bold]'],
    ]
