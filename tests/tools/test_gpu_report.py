"""tools/gpu_report.py: the whole command in its reduced form, on the CPU and on a GPU that is not there."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_cuda import OnCpu, plug_in
from gpu_results import RATE

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')

from mmtwins.benchmark import amp_training, gpu_plan, gpu_speed
from mmtwins.benchmark.gpu_page import CAPTIONS
from mmtwins.benchmark.products import Rate
from mmtwins.benchmark.steps import make_step
from mmtwins.benchmark.task import Task, Timing

CallTool = Callable[..., subprocess.CompletedProcess]
ROOT = Path(__file__).parents[2]
KINDS = ('tests', 'parity', 'amp', 'backbone', 'model', 'attention')


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes seconds: pytest in a process, the product that a step is compared with, and charts."""

    def measure_time(task: Task, names: list[str], rounds: int) -> tuple[list[Timing], Rate]:
        make_step(task, names[0])()
        return [Timing(name, task, (1.0,) * rounds) for name in names], RATE

    counts = dict(passed=3, failed=0, skipped=0, skipped_because=[], failures=[])
    monkeypatch.setattr(gpu_plan, 'run_gpu_tests', lambda root: counts)
    monkeypatch.setattr(gpu_speed, 'measure_time', measure_time)
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda figure, path: Path(path).touch())


def parts_of(folder: Path) -> dict[str, dict]:
    return {part['name']: part for part in json.loads((folder / 'report.json').read_text())['parts']}


def test_the_reduced_command_writes_the_bundle_on_a_cpu(call_tool: CallTool, tmp_path: Path, quick: None) -> None:
    pytest.importorskip('torch.nn.attention', reason='forcing a back end needs PyTorch 2.3')
    page = tmp_path / 'page.md'
    page.write_text('<!-- gpu: begin -->\n<!-- gpu: end -->\n')
    arguments = ('--device', 'cpu', '--reduced', '--precision', 'fp32', 'bf16', '--out', 'out', '--page', page)
    done = call_tool('gpu_report.py', *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = parts_of(tmp_path / 'out')
    assert list(dict.fromkeys(name.split()[0] for name in parts)) == list(KINDS)
    assert {part['state'] for part in parts.values()} == {'done'}
    assert f'{len(parts)} parts: nothing failed. Written to out and {page}.' in done.stdout
    assert {path.name for path in (tmp_path / 'out').glob('*.png')} == set(CAPTIONS)
    assert {path.name for path in (tmp_path / 'page').iterdir()} == set(CAPTIONS)
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert report['machine']['torch'] == torch.__version__
    assert report['command'].startswith('python tools/gpu_report.py --device cpu --reduced')
    assert report['command'] in page.read_text() and '| GPU tests | 3 | 0 | 0 |' in page.read_text()
    assert len(parts['amp bf16']['measured']['losses']) == 10
    rows = parts['attention 1x64x64']['measured']['rows']
    assert len(rows) == 2 * 2 * 9 and all('seconds' in row['ways']['math'] for row in rows)
    before = (tmp_path / 'out/parts/amp_bf16.json').stat().st_mtime_ns
    done = call_tool('gpu_report.py', *arguments)
    assert done.returncode == 0 and done.stdout.count('(measured earlier)') == len(parts)
    assert (tmp_path / 'out/parts/amp_bf16.json').stat().st_mtime_ns == before


def test_a_gpu_that_is_not_there_gets_the_same_parts(
    call_tool: CallTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """And errors of parts are text, do not end the others, and give exit code 1."""
    calls = plug_in(monkeypatch)
    monkeypatch.setattr(gpu_plan, 'train_in_amp', lambda *args: 1 / 0)
    arguments = ('--reduced', '--one-process', '--precision', 'bf16', '--only', 'tests', 'amp', 'backbone bf16 t')
    with OnCpu():
        done = call_tool('gpu_report.py', *arguments, '--out', 'out')
    assert done.returncode == 1
    parts = parts_of(tmp_path / 'out')
    assert {name: part['state'] for name, part in parts.items() if part['state'] != 'done'} == {'amp bf16': 'error'}
    assert parts['amp bf16']['reason'] == 'amp bf16 ended with ZeroDivisionError: division by zero'
    assert "To measure again what failed: --again --only 'amp bf16'" in done.stdout
    machine = json.loads((tmp_path / 'out/report.json').read_text())['machine']
    assert (machine['device'], machine['memory'], machine['compute capability']) == ('Fake H100', '80 GiB', '9.0')
    peaks = [entry['peak_bytes'] for entry in parts['backbone bf16 training 1x64x64']['measured']['memory']]
    assert peaks == [2 * 2**30] * 2
    assert {'set_device', 'empty_cache', 'reset_peak_memory_stats', 'max_memory_allocated'} < set(calls)
    assert not (tmp_path / 'docs').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('--device mps', '--device mps: give cuda or cuda:0, or cpu for a reduced try'),
        ('--device cpu --only speed', "--only 'speed' is the beginning of no part"),
        ('--device cpu --page missing.md', 'missing.md'),
        ('--device cpu --precision fp8', "invalid choice: 'fp8'"),
    ],
)
def test_wrong_arguments_end_in_one_line(call_tool: CallTool, arguments: str, message: str) -> None:
    done = call_tool('gpu_report.py', *arguments.split())
    assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr


def test_without_a_gpu_the_command_ends_with_one_sentence(call_tool, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    done = call_tool('gpu_report.py')
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith('error: there is no CUDA GPU that PyTorch') and '--device cpu' in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_the_section_is_refused_before_measuring(call_tool, tmp_path, quick) -> None:
    (tmp_path / 'page.md').write_text('nothing')
    done = call_tool('gpu_report.py', '--device', 'cpu', '--page', 'page.md')
    assert done.returncode == 1 and 'page.md has no section between <!-- gpu: begin -->' in done.stderr
    assert not (tmp_path / 'work_dirs').exists()


def test_the_docs_have_the_section_and_make_the_command() -> None:
    page = (ROOT / 'docs/performance.md').read_text()
    assert '<!-- gpu: begin -->' in page and '<!-- gpu: end -->' in page
    assert 'python tools/gpu_report.py $(ARGS)' in (ROOT / 'Makefile').read_text()
    assert dict(fp16='float16', bf16='bfloat16') == amp_training.DTYPES
