"""The newest whole checkpoint of a work directory, and one training in it at a time."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_training import finish, start

from mmtwins.engine import work_dir as module
from mmtwins.engine.work_dir import (
    find_missing_state,
    find_newest_checkpoint,
    lock_work_dir,
    locked_work_dir,
    resume_if_possible,
)


def save(path: Path, iteration: int, written: str = '20260101_000000', **changes: Any) -> Path:
    """A checkpoint as small as can be; parts that are None are left out."""
    meta = dict(iter=iteration, epoch=0, time=written)
    parts = dict(meta=meta, state_dict=dict(weight=torch.arange(100.0)), message_hub={}, optimizer={}, **{})
    parts.update(changes)
    path.parent.mkdir(exist_ok=True)
    torch.save({key: value for key, value in parts.items() if value is not None}, path)
    return path


def flip_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0).numpy().tobytes()) + 50] ^= 1
    path.write_bytes(content)


def test_the_newest_is_taken_whatever_the_pointer_says(tmp_path: Path) -> None:
    for iteration in (50, 100, 150):
        save(tmp_path / f'iter_{iteration}.pth', iteration)
    for pointer in (str(tmp_path / 'iter_50.pth'), '', '/elsewhere/iter_9.pth', None):
        (tmp_path / 'last_checkpoint').unlink(missing_ok=True)
        if pointer is not None:
            (tmp_path / 'last_checkpoint').write_text(pointer)
        assert find_newest_checkpoint(tmp_path) == (str(tmp_path / 'iter_150.pth'), [])


def test_the_newest_is_the_one_written_last(tmp_path: Path) -> None:
    save(tmp_path / 'iter_100.pth', 100, '20260101_000000')
    save(tmp_path / 'iter_150.pth', 150, '20260101_000100')
    save(tmp_path / 'iter_75.pth', 75, '20260102_000000')  # from a training that was resumed at 50
    save(tmp_path / 'epoch_2.pth', 60, '20260101_120000')
    for path in tmp_path.glob('*.pth'):
        os.utime(path, (0, 100 - len(path.name)))  # a copy has other times
    assert find_newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_75.pth')


def test_what_is_damaged_or_no_state_of_a_training_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path / 'iter_50.pth', 50)
    whole = (tmp_path / 'iter_50.pth').read_bytes()
    (tmp_path / 'iter_200.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'iter_210.pth').write_bytes(b'')
    (tmp_path / 'iter_220.pth').write_bytes(b'no checkpoint at all')
    flip_a_weight(save(tmp_path / 'iter_190.pth', 190))
    save(tmp_path / 'iter_180.pth', 180, state_dict=dict(a=torch.ones(1), b=torch.tensor([1, float('nan')])))
    save(tmp_path / 'iter_170.pth', 170, message_hub=None)
    torch.save(dict(weight=torch.ones(2)), tmp_path / 'iter_160.pth')
    save(tmp_path / 'best_mIoU_iter_300.pth', 300)
    save(tmp_path / 'iter_400.pth.bak', 400)
    (tmp_path / 'iter_500.pth').mkdir()
    path, notes = find_newest_checkpoint(tmp_path)
    assert path == str(tmp_path / 'iter_50.pth')
    reasons = {Path(note.split()[0]).name: note.split(' is passed over: ')[1] for note in notes}
    cut = 'it is cut off, or no checkpoint'
    assert reasons.pop('iter_190.pth').startswith('it is damaged: the checksum of iter_190/data/')
    assert reasons == {
        'iter_200.pth': cut,
        'iter_210.pth': cut,
        'iter_220.pth': cut,
        'iter_180.pth': 'b holds numbers that are not finite (NaN or infinity)',
        'iter_170.pth': 'it holds no state of a training to resume: message_hub missing',
        'iter_160.pth': 'it holds no state of a training to resume: meta, state_dict, message_hub missing',
    }


def test_a_whole_file_that_would_run_code_is_an_error(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, ('true',)

    save(tmp_path / 'iter_50.pth', 50, extra=Evil())
    with pytest.raises(ValueError, match=r'iter_50\.pth is refused: .*posix\.system'):
        find_newest_checkpoint(tmp_path)


def test_names_and_folders_of_the_hook(tmp_path: Path) -> None:
    save(tmp_path / 'step-7.pt', 7)
    assert find_newest_checkpoint(tmp_path).path is None
    assert find_newest_checkpoint(tmp_path, template='step-{}.pt').path == str(tmp_path / 'step-7.pt')
    work_dir = tmp_path / 'work'
    (tmp_path / 'out' / 'work').mkdir(parents=True)
    save(tmp_path / 'out' / 'work' / 'iter_3.pth', 3)
    work_dir.mkdir()
    found = find_newest_checkpoint(work_dir, str(tmp_path / 'out'))
    assert found.path == str(tmp_path / 'out' / 'work' / 'iter_3.pth')
    (work_dir / 'last_checkpoint').write_text('s3://bucket/work/iter_9.pth')
    assert find_newest_checkpoint(work_dir, 's3://bucket').path == 's3://bucket/work/iter_9.pth'


def test_missing_parts_are_named() -> None:
    assert find_missing_state(dict(meta=dict(iter=1, epoch=0), state_dict={}, message_hub={})) is None
    assert 'meta.epoch missing' in str(find_missing_state(dict(meta=dict(iter=1), state_dict={}, message_hub={})))
    assert 'meta, state_dict, message_hub missing' in str(find_missing_state([1]))


def test_a_config_resumes_or_starts_from_the_beginning(tmp_path: Path) -> None:
    cfg = Config(dict(work_dir=str(tmp_path / 'work'), resume=True, load_from='public.pth'))
    (note,) = resume_if_possible(cfg)
    assert note == (
        f'{tmp_path}/work has no checkpoint to resume: the training starts from the beginning, with the weights of public.pth'
    )
    assert (cfg.resume, cfg.load_from) == (False, 'public.pth')
    save(tmp_path / 'work' / 'iter_50.pth', 50)
    flip_a_weight(save(tmp_path / 'work' / 'iter_60.pth', 60))
    first, second = resume_if_possible(cfg)
    assert 'iter_60.pth is passed over: it is damaged' in first
    assert second == f'The training continues from {tmp_path}/work/iter_50.pth'
    assert (cfg.resume, cfg.load_from) == (True, f'{tmp_path}/work/iter_50.pth')
    shutil.copytree(tmp_path / 'work', tmp_path / 'copy')  # continues from its own
    cfg = Config(
        dict(work_dir=str(tmp_path / 'copy'), default_hooks=dict(checkpoint=dict(filename_tmpl='iter_{}.pth')))
    )
    resume_if_possible(cfg)
    assert cfg.load_from == f'{tmp_path}/copy/iter_50.pth'


def lock_of_another_process(work_dir: Path, tmp_path: Path, seconds: float = 60) -> int:
    """Start a process that holds a work directory."""

    def hold() -> None:
        with locked_work_dir(str(work_dir)):
            (tmp_path / 'held').touch()
            time.sleep(seconds)

    process = start(hold, tmp_path / 'log')
    while not (tmp_path / 'held').exists():
        time.sleep(0.01)
    return process


def test_a_second_training_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    process = lock_of_another_process(tmp_path / 'work', tmp_path)
    with pytest.raises(
        ValueError, match=rf'another training writes to {tmp_path}/work: process {process} on .*--work-dir'
    ):
        lock_work_dir(str(tmp_path / 'work'))
    os.kill(process, signal.SIGKILL)
    finish(process)
    with locked_work_dir(str(tmp_path / 'work')):
        assert f'process {os.getpid()} on' in (tmp_path / 'work' / '.lock').read_text()
        lock_work_dir(str(tmp_path / 'work'))()  # the hook of the same process
        with pytest.raises(TimeoutError):  # still held
            finish(start(lambda: _wait_for_lock(tmp_path / 'work'), tmp_path / 'log'), seconds=0.5)
    assert finish(start(lambda: _wait_for_lock(tmp_path / 'work'), tmp_path / 'log')) == 0


def _wait_for_lock(work_dir: Path) -> None:
    while True:
        try:
            lock_work_dir(str(work_dir))
            return
        except ValueError:
            time.sleep(0.02)


def test_a_worker_that_outlives_a_killed_training_does_not_hold_its_lock(tmp_path: Path) -> None:
    def train_with_worker() -> None:
        with locked_work_dir(str(tmp_path / 'work')):
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
            (tmp_path / 'held').touch()
            time.sleep(60)

    process = start(train_with_worker, tmp_path / 'log')
    while not (tmp_path / 'held').exists():
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    finish(process)
    lock_work_dir(str(tmp_path / 'work'))()
    os.killpg(process, signal.SIGKILL)


def test_a_requeued_job_waits_for_the_rest_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SLURM_JOB_ID', '77')
    process = lock_of_another_process(tmp_path / 'work', tmp_path, seconds=3.5)
    before = time.monotonic()
    lock_work_dir(str(tmp_path / 'work'))()
    assert 2.2 < time.monotonic() - before < 20
    finish(process)
    (tmp_path / 'held').unlink()
    process = lock_of_another_process(tmp_path / 'work', tmp_path)
    monkeypatch.setenv('SLURM_JOB_ID', '78')  # another job does not wait so long
    with pytest.raises(ValueError, match='Slurm job 77'):
        lock_work_dir(str(tmp_path / 'work'))
    monkeypatch.setenv('SLURM_JOB_ID', '77')
    monkeypatch.setattr(module, 'PATIENCE_WITH_JOB', 0)
    with pytest.raises(ValueError, match='Slurm job 77'):
        lock_work_dir(str(tmp_path / 'work'))
    os.kill(process, signal.SIGKILL)
    finish(process)


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(module.errno.ENOLCK, 'no locks')

    monkeypatch.setattr(module.fcntl, 'flock', refuse)
    lock_work_dir(str(tmp_path / 'work'))()
