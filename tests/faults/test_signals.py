"""Signals to a training: the iteration is finished, a checkpoint written, and a resumed training ends the same."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_training import (
    ITERATIONS,
    VALIDATION,
    count_differences,
    finish,
    iterations_done,
    make_config,
    progress,
    read_checkpoint,
    start,
    train,
)

SLOW = {'model.delay': 0.02}
VALIDATED = {**VALIDATION, 'val_dataloader.dataset.delay': 0.05}


def begin(work_dir: Path, iterations: int, **options: Any) -> int:
    """Start a training and wait until it has done some iterations."""
    progress[:] = bytes(4)
    process = start(lambda: train(make_config(work_dir, **options)), work_dir.with_suffix('.log'))
    deadline = time.monotonic() + 60
    while iterations_done() < iterations:
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert not ended and time.monotonic() < deadline, work_dir.with_suffix('.log').read_text()[-3000:]
        time.sleep(0.002)
    return process


def log_of(work_dir: Path) -> str:
    return work_dir.with_suffix('.log').read_text()


def only_checkpoint(work_dir: Path) -> dict[str, Any]:
    """The checkpoint that ``last_checkpoint`` names."""
    return read_checkpoint(Path((work_dir / 'last_checkpoint').read_text()))


@pytest.fixture(scope='module')
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a training that nobody stopped."""
    work_dir = tmp_path_factory.mktemp('signals') / 'reference'
    assert finish(start(lambda: train(make_config(work_dir)), work_dir.with_suffix('.log'))) == 0
    return work_dir / f'iter_{ITERATIONS}.pth'


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)], ids=lambda value: str(value)
)
def test_a_signal_ends_with_a_checkpoint_that_continues(
    number: signal.Signals, code: int, reference: Path, tmp_path: Path
) -> None:
    work_dir = tmp_path / 'work'
    process = begin(work_dir, 6, **SLOW)
    os.kill(process, number)
    assert finish(process) == code
    done = iterations_done()
    assert 6 <= done < ITERATIONS
    assert only_checkpoint(work_dir)['meta']['iter'] == done
    log = log_of(work_dir)
    assert f'{number.name}: saving a checkpoint after this iteration; a second signal ends at once' in log
    assert f'Stopped by {number.name} after iteration {done}. {work_dir}/iter_{done}.pth is written' in log
    assert 'the same command with --resume continues' in log and 'Traceback' not in log
    assert finish(start(lambda: train(make_config(work_dir)), work_dir.with_suffix('.log'))) == 0
    assert f'The training continues from {work_dir}/iter_{done}.pth' in log_of(work_dir)
    # The checkpoint off schedule has gone with the next one.
    assert [path.name for path in work_dir.glob('*.pth')] == [reference.name]
    assert count_differences(work_dir / reference.name, reference) == 0


def test_a_second_signal_ends_at_once_and_a_doubled_one_counts_once(tmp_path: Path) -> None:
    process = begin(tmp_path / 'work', 1, **{'model.delay': 1.0})
    time.sleep(0.2)  # the next iteration has begun
    os.kill(process, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(process, signal.SIGTERM)  # as `timeout` sends it
    assert finish(process) == 75
    process = begin(tmp_path / 'other', 1, **{'model.delay': 1.0})
    time.sleep(0.2)
    os.kill(process, signal.SIGUSR1)
    time.sleep(0.3)
    before = time.monotonic()
    os.kill(process, signal.SIGTERM)
    assert finish(process) == -signal.SIGTERM
    assert time.monotonic() - before < 0.5
    assert not list((tmp_path / 'other').glob('*.pth'))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda value: value.name)
def test_a_signal_to_the_whole_group_finds_workers_prepared(number: signal.Signals, tmp_path: Path) -> None:
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.dataset.delay': 0.05}  # it mostly waits for data
    process = begin(tmp_path / 'work', 3, **options)
    time.sleep(0.03)
    os.killpg(process, number)
    assert finish(process) == (130 if number == signal.SIGINT else 75), log_of(tmp_path / 'work')
    assert only_checkpoint(tmp_path / 'work')['meta']['iter'] == iterations_done()
    assert 'Traceback' not in log_of(tmp_path / 'work')


def test_accumulated_gradients_are_not_lost(tmp_path: Path) -> None:
    options = {**SLOW, 'optim_wrapper.accumulative_counts': 5}
    process = begin(tmp_path / 'work', 6, **options)
    os.kill(process, signal.SIGTERM)
    assert finish(process) == 75
    assert only_checkpoint(tmp_path / 'work')['meta']['iter'] in (10, 15)


@pytest.mark.parametrize('iterations', [2, 5])
def test_a_signal_inside_an_epoch(iterations: int, tmp_path: Path) -> None:
    options = {
        **SLOW,
        'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=4),
        'train_dataloader.sampler.type': 'DefaultSampler',
        'default_hooks.checkpoint': dict(_delete_=True, type='CheckpointHook', interval=1),
        'log_processor.by_epoch': True,
    }
    process = begin(tmp_path / 'work', 6 + iterations, **options)
    os.kill(process, signal.SIGTERM)
    assert finish(process) == 75
    meta, done = only_checkpoint(tmp_path / 'work')['meta'], iterations_done()
    assert (meta['epoch'], meta['iter']) == (done // 6, done)
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


def test_a_signal_inside_a_validation_ends_it(tmp_path: Path) -> None:
    options = {**VALIDATED, 'train_cfg.val_interval': 4}
    process = begin(tmp_path / 'work', 4, **options)
    time.sleep(0.3)
    before = time.monotonic()
    os.kill(process, signal.SIGUSR1)
    assert finish(process) == 75
    assert time.monotonic() - before < 0.8  # the validation takes 1.2 s
    assert iterations_done() == only_checkpoint(tmp_path / 'work')['meta']['iter'] == 4


def test_a_validation_behind_an_iteration_that_is_not_saved_is_completed(tmp_path: Path) -> None:
    options = {**VALIDATED, 'train_cfg.val_interval': 3, 'val_dataloader.dataset.delay': 0.02}
    process = begin(tmp_path / 'work', 3, **options)
    time.sleep(0.1)
    os.kill(process, signal.SIGUSR1)
    assert finish(process) == 75
    assert iterations_done() == only_checkpoint(tmp_path / 'work')['meta']['iter'] == 4


def test_without_our_checkpoint_hook_nothing_is_saved_and_said_so(tmp_path: Path) -> None:
    process = begin(tmp_path / 'work', 3, **SLOW, **{'default_hooks.checkpoint': None})
    os.kill(process, signal.SIGTERM)
    assert finish(process) == 75
    assert 'Nothing is saved' in log_of(tmp_path / 'work')
