"""The demo's orchestration, on a few iterations: results, continuing after kill -9 and Ctrl-C, messages."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
for package in ('mmcv', 'mmseg', 'mmdet', 'rich', 'matplotlib'):
    pytest.importorskip(package)


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools/demo.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules['demo'] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules['demo']


def start(folder, *arguments):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='2')
    command = [sys.executable, str(ROOT / 'tools/demo.py'), '--tiny', *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where the tests run in the background, Ctrl-C is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, 'nothing happened'
        time.sleep(0.02)


def processes_using(folder):
    """Ids of the processes that have the folder in their command line."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')
def test_killed_interrupted_and_completed(tmp_path):
    """kill -9 while UPerNet trains, Ctrl-C while Mask R-CNN trains, then to the end, then once more."""
    work = tmp_path / 'results'
    arguments = ['--work-dir', str(work), '--data-root', str(tmp_path / 'toy')]
    process = start(tmp_path, *arguments)
    # MMEngine names a checkpoint in last_checkpoint once it is complete.
    wait_for((work / 'segmentation/last_checkpoint').is_file, process)
    process.kill()
    process.communicate()
    time.sleep(0.5)
    assert processes_using(work) == []
    # What a kill in the middle of writing a checkpoint leaves.
    (work / 'segmentation/iter_9.pth').write_bytes(b'PK\x03\x04 half a checkpoint')
    (work / 'segmentation/last_checkpoint').write_text('')

    process = start(tmp_path, *arguments)
    wait_for(lambda: list((work / 'detection').glob('iter_*.pth')), process)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130
    assert 'The same command continues' in output and 'Traceback' not in output
    assert 'continuing from iteration' in output or 'already trained' in output
    assert processes_using(work) == []
    segmentation = (work / 'segmentation/iter_8.pth').stat().st_mtime_ns

    code, output = finish(start(tmp_path, *arguments))
    assert code == 0, output
    assert 'already trained' in output
    assert (work / 'segmentation/iter_8.pth').stat().st_mtime_ns == segmentation
    results = json.loads((work / 'results.json').read_text())
    for task, metrics in (
        ('segmentation', ['mIoU', 'mAcc', 'aAcc']),
        ('detection', ['mask AP50', 'mask AP', 'box AP50', 'box AP']),
    ):
        assert list(results[task]['metrics']) == metrics
        assert all(0 <= value <= 1 for value in results[task]['metrics'].values())
        assert results[task]['training_seconds'] > 1
        trained = torch.load(work / task / 'iter_8.pth', weights_only=True, map_location='cpu')
        assert trained['meta']['iter'] == 8
    for path in results['paths'].values():
        assert Path(path).is_file() and Path(path).name in output

    before = {path: path.stat().st_mtime_ns for path in work.rglob('*.p*')}
    code, output = finish(start(tmp_path, *arguments))
    assert code == 0 and 'complete already' in output and '--fresh' in output
    assert f'{results["segmentation"]["metrics"]["mIoU"]:.3f}' in output
    assert {path: path.stat().st_mtime_ns for path in work.rglob('*.p*')} == before

    code, output = finish(start(tmp_path, *arguments, '--seed', '1'))
    assert code == 1 and '--fresh' in output and 'Traceback' not in output


def test_repaired_checkpoints(demo, tmp_path):
    for iteration in (50, 100, 150):
        torch.save({'iter': iteration}, tmp_path / f'iter_{iteration}.pth')
    whole = (tmp_path / 'iter_150.pth').read_bytes()
    (tmp_path / 'iter_150.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_50.pth'))
    assert demo.repair_last_checkpoint(tmp_path) == 100
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_100.pth')


def test_no_checkpoint(demo, tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_50.pth'))
    assert demo.repair_last_checkpoint(tmp_path) == 0
    assert not (tmp_path / 'last_checkpoint').exists()


def test_time_left(demo, monkeypatch, capsys):
    """100 iterations of 0.5 s each: after 21 of them 39.5 s are left."""
    now = [0.0]
    monkeypatch.setattr(demo.time, 'monotonic', lambda: now[0])
    console = demo.Console(width=100)
    with demo.Meter(console, 100, 'iterations', seconds=60) as meter:
        now[0] = 12.0  # loading
        meter.update(0)
        now[0] = 13.0
        meter.update(1)
        now[0] = 23.0
        meter.update(21, 'loss 1.00')
        now[0] = 60.0
        meter.update(100)
        meter.update(100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '  0/100 iterations, about 60 s left'
    assert lines[1] == '  21/100 iterations, 40 s left   loss 1.00'
    assert len(lines) == 3 and lines[2].startswith('  100/100 iterations')


def test_failed_tool_is_reported(demo, tmp_path):
    with pytest.raises(demo.DemoError, match=r'train\.py ended with exit code') as error:
        demo.run_tool('train.py', ['missing.py', '--work-dir', str(tmp_path)], tmp_path / 'log', lambda: None)
    assert 'missing.py' in str(error.value).split('\n', 1)[1]


def test_fresh_deletes_only_runs_of_the_demo(demo, tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('mine')
    assert demo.main(['--work-dir', str(tmp_path), '--fresh', '--tiny']) == 1
    assert 'not deleted' in capsys.readouterr().err
    assert (tmp_path / 'thesis.tex').read_text() == 'mine'


def test_one_demo_per_folder(demo, tmp_path, capsys):
    with (tmp_path / '.lock').open('w') as lock:
        demo.fcntl.flock(lock, demo.fcntl.LOCK_EX)
        assert demo.main(['--work-dir', str(tmp_path), '--tiny']) == 1
    assert 'another demo is running' in capsys.readouterr().err


def test_configs_name_the_generated_classes(demo):
    from mmengine.config import Config

    from mmtwins.demo import data as toy_data

    segmentation, detection = (Config.fromfile(ROOT / 'configs/toy' / task.config) for task in demo.TASKS)
    assert tuple(segmentation.classes) == toy_data.CLASSES
    assert [tuple(colour) for colour in segmentation.palette] == list(toy_data.PALETTE)
    assert tuple(detection.classes) == toy_data.THING_CLASSES
    assert [tuple(colour) for colour in detection.palette] == [thing.colour for thing in toy_data.THINGS]
