"""The GPU report: parts that fail, that are kept, that crash their process; and the bundle."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_cuda import plug_in
from gpu_results import all_kinds, result

from mmtwins.benchmark import gpu_bundle
from mmtwins.benchmark.gpu_bundle import (
    check_gpu,
    choose_parts,
    measure_in_child,
    measure_part,
    own_command,
    run_parts,
    write_bundle,
)
from mmtwins.benchmark.gpu_page import CAPTIONS
from mmtwins.benchmark.gpu_plan import Part

MACHINE = dict(device='Fake H100')


def part(name: str, value: object = None, **settings) -> Part:
    """A part whose measurement gives or raises a value."""

    def measure() -> dict:
        if isinstance(value, BaseException):
            raise value
        return dict(value or {})

    return Part(name, settings, measure)


def test_a_gpu_is_needed_and_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_gpu('cpu') == 'cpu'
    for device in ('mps', 'cuda:x', 'cuda0'):
        with pytest.raises(ValueError, match=f'--device {device}: give cuda or cuda:0, or cpu for a reduced try'):
            check_gpu(device)
    plug_in(monkeypatch, count=2)
    assert (check_gpu('cuda'), check_gpu('cuda:1')) == ('cuda:0', 'cuda:1')
    with pytest.raises(ValueError, match='--device cuda:2: there are 2 GPUs here, cuda:0 to cuda:1'):
        check_gpu('cuda:2')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(
        ValueError, match=r'^there is no CUDA GPU that PyTorch .* can use: run this on a machine with one, or'
    ):
        check_gpu('cuda')


@pytest.mark.parametrize(
    ('value', 'state', 'reason'),
    [
        (dict(rows=[1]), 'done', ''),
        (dict(failures=['a is 1', 'b is 2']), 'failed', 'a is 1; b is 2'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried'), 'left out', 'x was left out: it does not fit into memory'),
        (RuntimeError('CUDA error:\n illegal access'), 'error', 'x ended with RuntimeError: CUDA error: illegal access'),
        (KeyError(), 'error', 'x ended with KeyError'),
    ],
)  # fmt: skip
def test_whatever_goes_wrong_becomes_text(value: object, state: str, reason: str) -> None:
    result = measure_part(part('x', value))
    assert (result['state'], result['reason']) == (state, reason)
    assert result['measured'] == (value if isinstance(value, dict) else None)


def test_an_error_ends_no_other_part_and_results_are_kept(tmp_path: Path) -> None:
    parts = [part('a 1', RuntimeError('broken')), part('b 2', dict(rows=[])), part('c 3', dict(rows=[]))]
    first = list(run_parts(parts, tmp_path, MACHINE, measure_part))
    assert [(one['name'], one['state'], one['is_new']) for one in first] == [
        ('a 1', 'error', True), ('b 2', 'done', True), ('c 3', 'done', True),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a_1.json', 'b_2.json', 'c_3.json']
    again = list(run_parts(parts, tmp_path, MACHINE, never))
    assert [one['is_new'] for one in again] == [False] * 3
    assert [dict(one, is_new=True) for one in again] == first


def never(part: Part) -> dict:
    raise AssertionError(f'{part.name} was measured already')


def test_what_is_measured_again(tmp_path: Path) -> None:
    parts = [part('a', dict(rows=[]), rounds=2), part('b', dict(rows=[]), rounds=2)]
    list(run_parts(parts, tmp_path, MACHINE, measure_part))

    def new(*args, **kwargs) -> list[str]:
        return [one['name'] for one in run_parts(*args, **kwargs) if one['is_new']]

    assert new(parts, tmp_path, MACHINE, measure_part, again=True) == ['a', 'b']
    assert new(parts, tmp_path, MACHINE, measure_part, chosen=parts[:1], again=True) == ['a']
    assert new([part('a', dict(rows=[]), rounds=7), parts[1]], tmp_path, MACHINE, measure_part) == ['a']
    assert new(parts, tmp_path, dict(device='another'), measure_part) == ['a', 'b']


def test_parts_that_are_not_chosen_are_read_and_not_measured(tmp_path: Path) -> None:
    parts = [part('a', dict(rows=[])), part('b', dict(rows=[])), part('c', dict(rows=[]))]
    list(run_parts(parts[:1], tmp_path, MACHINE, measure_part))
    results = run_parts(parts, tmp_path, MACHINE, measure_part, chosen=[parts[2]])
    assert [one['name'] for one in results] == ['a', 'c']


def test_parts_are_chosen_by_the_beginning_of_their_names() -> None:
    parts = [part('parity svt'), part('parity pcpvt'), part('amp fp16')]
    assert choose_parts(parts, []) == parts
    assert [one.name for one in choose_parts(parts, ['amp', 'parity p'])] == ['parity pcpvt', 'amp fp16']
    with pytest.raises(
        ValueError, match="--only 'speed' is the beginning of no part: the kinds of parts are parity, amp"
    ):
        choose_parts(parts, ['amp', 'speed'])


CHILD = """
import json, os, sys
print('working', flush=True)
name, path = sys.argv[2], sys.argv[4]
if name == 'killed':
    os.kill(os.getpid(), 9)
if name == 'raises':
    raise RuntimeError('CUDA error: device-side assert')
if name == 'hangs':
    import time; time.sleep(60)
open(path, 'w').write(json.dumps(dict(state='done', reason='', measured=dict(argv=sys.argv[1:]))))
"""


def test_a_process_that_crashes_or_hangs_is_told(tmp_path: Path) -> None:
    def run(name: str, seconds: float = 30) -> tuple[str, str]:
        result = measure_in_child(part(name), [sys.executable, '-S', '-c', CHILD], tmp_path, seconds)
        return result['state'], result['reason']

    assert run('works fine') == ('done', '')
    assert run('killed') == ('error', 'killed ended with code -9: working')
    assert run('raises') == ('error', 'raises ended with code 1: RuntimeError: CUDA error: device-side assert')
    assert run('hangs', 0.5) == ('error', 'hangs was stopped after 0 s')
    assert {path.suffix for path in tmp_path.iterdir()} == {'.log'}


@pytest.mark.slow
def test_the_tool_measures_a_part_in_a_process(tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / 'tools/gpu_report.py'
    command = own_command(str(tool), ['--device', 'cpu', '--only', 'parity'])
    result = measure_in_child(part('parity svt 64x64'), command, tmp_path)
    assert result['state'] == 'done', result['reason']
    assert [row['precision'] for row in result['measured']['rows']] == ['fp32', 'tf32', 'bf16', 'fp16']


@pytest.mark.slow
def test_a_reduced_report_runs_on_a_cpu(tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / 'tools/gpu_report.py'
    command = own_command(str(tool), ['--device', 'cpu', '--reduced', '--out', 'out'])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'parts: nothing failed. Written to out.' in done.stdout
    parts = json.loads((tmp_path / 'out/report.json').read_text())['parts']
    assert {one['name'].split()[0] for one in parts} == {'tests', 'parity', 'amp', 'backbone', 'model', 'attention'}
    assert {one['state'] for one in parts} == {'done'}


def test_the_bundle_is_written_and_the_page_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        'matplotlib.figure.Figure.savefig', lambda figure, path: Path(path).touch()
    )  # which takes seconds
    page = tmp_path / 'docs/performance.md'
    page.parent.mkdir()
    page.write_text('before\n<!-- gpu: begin -->\n**No GPU has been measured yet.**\n<!-- gpu: end -->\nafter\n')
    written = write_bundle(tmp_path / 'out', 'make gpu', MACHINE, all_kinds(), page)
    assert {path.name for path in written} == {'report.json', 'tables.md', *CAPTIONS}
    assert json.loads((tmp_path / 'out/report.json').read_text()) == dict(
        command='make gpu', machine=MACHINE, parts=json.loads(json.dumps(all_kinds()))
    )
    text, tables = page.read_text(), (tmp_path / 'out/tables.md').read_text()
    assert text.startswith('before\n<!-- gpu: begin -->\n```sh\nmake gpu\n```') and text.endswith(
        '<!-- gpu: end -->\nafter\n'
    )
    assert 'No GPU has been measured' not in text and '| GPU tests | 40 | 0 | 1 |' in text
    for name in CAPTIONS:
        assert (page.parent / 'performance' / name).is_file() and (tmp_path / 'out' / name).is_file()
        assert f'](performance/{name})' in text and f']({name})' in tables


def test_numbers_that_json_lacks_are_null_in_the_bundle(tmp_path: Path) -> None:
    results = [result('amp fp16', None, 'failed') | dict(settings=dict(values=[1.5, math.nan, math.inf], size=(2, 3)))]
    write_bundle(tmp_path, 'make gpu', MACHINE, results)
    parts = json.loads((tmp_path / 'report.json').read_text(), parse_constant=lambda name: pytest.fail(name))['parts']
    assert parts[0]['settings'] == dict(values=[1.5, None, None], size=[2, 3])


def test_a_bundle_without_a_page_changes_no_page(tmp_path: Path) -> None:
    write_bundle(tmp_path, 'make gpu', MACHINE, [], None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['report.json', 'tables.md']
    assert gpu_bundle.SECTION == 'gpu'
