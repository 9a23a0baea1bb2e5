"""Charts of a GPU report: one for each thing that was measured."""

from pathlib import Path

import pytest
from gpu_results import all_kinds

from mmtwins.benchmark import gpu_charts
from mmtwins.benchmark.gpu_charts import draw_report
from mmtwins.benchmark.gpu_page import CAPTIONS


def test_there_is_a_chart_for_each_table(tmp_path: Path) -> None:
    charts = draw_report(all_kinds(), tmp_path)
    assert {chart.name for chart in charts} == set(CAPTIONS)
    assert all(chart.read_bytes().startswith(b'\x89PNG') for chart in charts)
    assert draw_report([], tmp_path) == []


def test_bars_have_the_figures_of_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    monkeypatch.setattr(gpu_charts, 'draw_bars', lambda groups, unit, path: drawn.update({path.name: groups}) or path)
    draw_report(all_kinds(), tmp_path)
    title = 'fp32 inference 1x512x512'
    assert drawn['gpu_time.png'] == {title: pytest.approx({'mmtwins': 10.0, 'timm': 18.0})}
    assert drawn['gpu_memory.png'] == {title: pytest.approx({'mmtwins': 10.0, 'timm': 18.0})}
    assert drawn['gpu_attention.png'] == {
        'LSA 1, 1x512x512, bf16 inference': pytest.approx({'chosen by PyTorch': 2500, 'explicit softmax': 1000})
    }
