"""The sweep: what is measured, kept, measured again and said of what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmtwins.export import FORMATS, matrix
from mmtwins.export.matrix import ARCHS, SIZES, Cell, all_cells, build_recipe, compare, measure_cell, sweep
from mmtwins.models.layers import map_sizes

CELLS = [Cell('svt-s', 'backbone', name) for name in ('torchscript', 'torch-export')]


def works(cell: Cell) -> dict[str, Any]:
    return dict(state='works', reason='', runtime=cell.format)


def dies(cell: Cell) -> dict[str, Any]:
    raise MemoryError('too large')


def test_all_cells_are_all_archs_models_and_formats() -> None:
    assert len(all_cells()) == 6 * 3 * len(FORMATS) == 90
    assert all_cells(['svt-s', 'svt-b'], ['fpn'])[1] == Cell('svt-b', 'fpn', 'onnx')


def test_the_sizes_are_with_and_without_padding() -> None:
    def pads(size: tuple[int, int]) -> list[bool]:
        return [any(sides[axis] % 7 for sides in map_sizes(*size)) for axis in (0, 1)]

    assert [pads(size) for size in SIZES] == [[False, False], [False, False], [False, True], [True, True], [True, True]]
    assert len(SIZES) == 5


def test_results_are_kept_and_failures_measured_again_on_request(tmp_path: Path) -> None:
    (first,) = sweep(tmp_path, CELLS[:1], measure=dies)
    assert first['state'] == 'failed' and 'too large' in first['reason']
    kept, new = sweep(tmp_path, CELLS, measure=works)
    assert kept == first and new['state'] == 'works' and new['format'] == 'torch-export'
    assert json.loads((tmp_path / 'svt-s_backbone_torch-export.json').read_text()) == new
    assert [one['state'] for one in sweep(tmp_path, CELLS, again=True, measure=works)] == ['works', 'works']
    assert not list(tmp_path.glob('*.part'))


def test_nothing_is_measured_for_a_page_of_what_there_is(tmp_path: Path) -> None:
    assert not list(sweep(tmp_path, CELLS, kept=True, measure=dies))


def test_a_missing_runtime_is_said_and_measured_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell('svt-s', 'fpn', 'openvino')
    monkeypatch.setattr(matrix, 'find_spec', lambda name: None)
    (result,) = sweep(tmp_path, [cell], measure=works)
    assert (result['state'], result['reason']) == ('missing', 'openvino was not installed')
    monkeypatch.setattr(matrix, 'find_spec', lambda name: name)
    (result,) = sweep(tmp_path, [cell], measure=works)
    assert result['state'] == 'works'


class Doubles(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * 2


def test_results_and_times_are_compared_side_by_side() -> None:
    calls: list[str] = []

    def run(images: Tensor) -> list[Tensor]:
        calls.append('run')
        return [images * 2.5]

    found = compare(Doubles(), run, (4, 5), rounds=3)
    assert found['size'] == (4, 5) and len(calls) == 4  # one to compare, three to time
    assert found['difference'] == pytest.approx(0.25)
    assert found['seconds'] >= 0 and found['eager_seconds'] >= 0


def test_a_cell_is_exported_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).eval()
    monkeypatch.setattr(matrix, 'build_recipe', lambda arch, name: model)
    threads = torch.get_num_threads()
    found = measure_cell(Cell('svt-s', 'backbone', 'torchscript'), [(64, 64), (70, 80)], rounds=1)
    torch.set_num_threads(threads)
    assert found['state'] == 'works' and found['runtime'] == f'torch {torch.__version__}'
    assert [one['size'] for one in found['sizes']] == [(64, 64), (70, 80)]
    monkeypatch.setattr(matrix, 'open_file', lambda path, format_: lambda images: [model(images) * 2])
    found = measure_cell(Cell('svt-s', 'backbone', 'torchscript'), [(64, 64)], rounds=1)
    torch.set_num_threads(threads)
    assert found['state'] == 'differs' and found['reason'] == 'differs by 1.0e+00'


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
def test_every_recipe_is_built(arch: str) -> None:
    pytest.importorskip('mmseg')
    for name, outputs in (('backbone', 4), ('fpn', 1), ('upernet', 1)):
        model = build_recipe(arch, name)
        with torch.no_grad():
            maps = model(torch.randn(1, 3, 64, 64))
        assert (1 if isinstance(maps, Tensor) else len(maps)) == outputs
        assert all(m.std() > 1e-3 for m in ([maps] if isinstance(maps, Tensor) else maps))
