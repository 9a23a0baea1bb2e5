"""tools/demo.py on a few iterations: results, continuing after kill -9 and Ctrl-C, messages."""

import fcntl
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmtwins.weights.opening import read_file

ROOT = Path(__file__).resolve().parents[2]
for package in ('mmcv', 'mmseg', 'mmdet', 'rich', 'matplotlib'):
    pytest.importorskip(package)


def start(folder, *arguments):
    command = [sys.executable, str(ROOT / 'tools/demo.py'), '--tiny', *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
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
def test_killed_interrupted_and_completed(call_tool, tmp_path):
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
    check_results(work, output)
    assert 'already trained' in output
    assert (work / 'segmentation/iter_8.pth').stat().st_mtime_ns == segmentation


def test_completed_and_called_again(call_tool, tmp_path, monkeypatch):
    """The tools are called in this process; the test above starts them."""

    def run_script(script, arguments, log, report=lambda: None):
        done = call_tool(script.name, *arguments)
        log.write_text(done.stdout + done.stderr)
        assert done.returncode == 0, done.stderr
        report()

    monkeypatch.setattr('mmtwins.demo.training.run_script', run_script)
    work = tmp_path / 'results'
    arguments = ['--work-dir', str(work), '--data-root', str(tmp_path / 'toy')]
    first = call_tool('demo.py', '--tiny', *arguments)
    assert first.returncode == 0, first.stderr
    check_results(work, first.stdout)
    before = {path: path.stat().st_mtime_ns for path in work.rglob('*.p*')}
    again = call_tool('demo.py', '--tiny', *arguments)
    assert again.returncode == 0 and 'complete already' in again.stdout and '--fresh' in again.stdout
    results = json.loads((work / 'results.json').read_text())
    assert f'{results["segmentation"]["metrics"]["mIoU"]:.3f}' in again.stdout
    assert {path: path.stat().st_mtime_ns for path in work.rglob('*.p*')} == before

    other = call_tool('demo.py', '--tiny', *arguments, '--seed', '1')
    assert other.returncode == 1 and '--fresh' in other.stderr and 'Traceback' not in other.stderr


def check_results(work, output):
    """Of a demo that ended, and what it printed."""
    results = json.loads((work / 'results.json').read_text())
    for task, metrics in (
        ('segmentation', ['mIoU', 'mAcc', 'aAcc']),
        ('detection', ['mask AP50', 'mask AP', 'box AP50', 'box AP']),
    ):
        assert list(results[task]['metrics']) == metrics
        assert all(0 <= value <= 1 for value in results[task]['metrics'].values())
        assert results[task]['training_seconds'] > 1
        trained = read_file(work / task / 'iter_8.pth', 'cpu')
        assert trained['meta']['iter'] == 8
    for path in results['paths'].values():
        assert Path(path).is_file() and Path(path).name in output


def test_fresh_deletes_only_runs_of_the_demo(call_tool, tmp_path):
    (tmp_path / 'thesis.tex').write_text('mine')
    done = call_tool('demo.py', '--work-dir', tmp_path, '--fresh', '--tiny')
    assert done.returncode == 1 and 'not deleted' in done.stderr
    assert (tmp_path / 'thesis.tex').read_text() == 'mine'


def test_one_demo_per_folder(call_tool, tmp_path):
    with (tmp_path / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = call_tool('demo.py', '--work-dir', tmp_path, '--tiny')
    assert done.returncode == 1 and 'another demo is running' in done.stderr


def test_what_is_not_installed_is_said_before_anything_is_done(call_tool, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'mmdet' else find_spec(name))
    done = call_tool('demo.py', '--work-dir', tmp_path / 'new', '--tiny')
    assert (done.returncode, done.stderr) == (
        1,
        'error: mmdet cannot be imported: `make demo` in a checkout sets everything up\n',
    )
    assert not (tmp_path / 'new').exists()


def test_a_data_root_that_options_cannot_carry_is_refused(call_tool, tmp_path):
    done = call_tool('demo.py', '--work-dir', tmp_path, '--data-root', 'a b', '--tiny')
    assert done.returncode == 1 and 'name a folder without spaces' in done.stderr
