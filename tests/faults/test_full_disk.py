"""A disk that is really full, in a file system of a few hundred kilobytes: one sentence, and everything before it intact."""

import ctypes
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny_training import ITERATIONS, count_differences, finish, make_config, read_checkpoint, start, train

from mmtwins.engine.work_dir import find_newest_checkpoint

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000  # of Linux's unshare
CANNOT_MOUNT = 99


def mount_small_disk(folder: Path, kilobytes: int) -> None:
    """Mount a small disk that only this process sees; ends the process where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.getuid()
    if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        os._exit(CANNOT_MOUNT)
    if user:
        Path('/proc/self/uid_map').write_text(f'0 {user} 1')
    folder.mkdir(exist_ok=True)
    for command in ('mount --make-rprivate /', f'mount -t tmpfs -o size={kilobytes}k tmpfs {folder}'):
        if subprocess.run(command.split(), capture_output=True).returncode:
            os._exit(CANNOT_MOUNT)


def on_a_small_disk(
    work: Callable[[Path], dict[str, Any]], tmp_path: Path, kilobytes: int
) -> tuple[dict[str, Any], str]:
    """Do something on a small disk; returns what it returns, and all that it has printed."""

    def do() -> None:
        mount_small_disk(tmp_path / 'disk', kilobytes)
        (tmp_path / 'result.json').write_text(json.dumps(work(tmp_path / 'disk')))

    code = finish(start(do, tmp_path / 'log'))
    if code == CANNOT_MOUNT:
        pytest.skip('no file systems may be mounted here')
    output = (tmp_path / 'log').read_text()
    assert code == 0, output[-3000:]
    return json.loads((tmp_path / 'result.json').read_text()), output


def end_of(work_dir: Path, **options: Any) -> str | None:
    """Train; returns the sentence that ends the training before its last iteration."""
    try:
        train(make_config(work_dir, **options))
    except SystemExit as end:
        return str(end.code)
    return None


@HOOKS.register_module()
class FillDisk(Hook):
    """Another program fills the disk at an iteration, to the last byte."""

    def __init__(self, iteration: int, path: str) -> None:
        self.iteration, self.path = iteration, path

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.iteration:
            with open(self.path, 'wb', buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1000))
                except OSError:
                    pass


def test_checkpoints_that_fill_the_disk(tmp_path: Path) -> None:
    def work(disk: Path) -> dict[str, Any]:
        message = end_of(disk / 'work', **{'default_hooks.checkpoint.max_keep_ckpts': -1})
        files = sorted((path.name for path in (disk / 'work').glob('*.pth')), key=lambda name: (len(name), name))
        for name in files:
            read_checkpoint(disk / 'work' / name)
        partial = [path.name for path in (disk / 'work').glob('*.partial')]
        newest = find_newest_checkpoint(disk / 'work').path
        for name in files[:-1]:  # make room
            (disk / 'work' / name).unlink()
        assert end_of(disk / 'work') is None
        assert end_of(tmp_path / 'reference') is None
        last = f'iter_{ITERATIONS}.pth'
        return dict(
            message=message,
            files=files,
            partial=partial,
            newest=newest,
            differing=count_differences(disk / 'work' / last, tmp_path / 'reference' / last),
        )

    found, output = on_a_small_disk(work, tmp_path, kilobytes=250)
    assert 1 <= len(found['files']) < 9
    failed = 4 * len(found['files']) + 4
    newest = f'{tmp_path}/disk/work/iter_{failed - 4}.pth'
    assert found['newest'] == newest and found['partial'] == []
    assert found['message'].startswith(f'error: {tmp_path}/disk/work/iter_{failed}.pth cannot be written: it needs 0.')
    assert found['message'].endswith(f'Make room, then start again: {newest} stays, and --resume continues from it')
    assert found['differing'] == 0
    assert 'Traceback' not in output and 'Logging error' not in output


@pytest.mark.parametrize('iteration', [9, 10, 12])
def test_another_program_fills_the_disk(iteration: int, tmp_path: Path) -> None:
    """Then not even the log can be written."""

    def work(disk: Path) -> dict[str, Any]:
        hooks = [dict(type='FillDisk', iteration=iteration, path=str(disk / 'other'))]
        options = {'default_hooks.logger': dict(type='LoggerHook', interval=1)}
        message = end_of(disk / 'work', custom_hooks=hooks, **options)
        files = sorted(path.name for path in (disk / 'work').glob('*.pth'))
        meta = read_checkpoint(disk / 'work' / files[0])['meta']
        (disk / 'other').unlink()
        after = end_of(disk / 'work')
        return dict(message=message, files=files, iter=meta['iter'], after=after)

    found, output = on_a_small_disk(work, tmp_path, kilobytes=1000)
    assert found['files'] == ['iter_8.pth'] and found['iter'] == 8 and found['after'] is None
    assert found['message'].startswith('error: ') and '\n' not in found['message']
    assert 'No space left on device' in found['message'] or 'the disk has 0.0 MB left' in found['message']
    assert '--resume continues' in found['message']
    assert 'Traceback' not in output and 'Logging error' not in output


def test_a_conversion_to_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    import torch
    from tiny import make_tiny

    torch.save(make_tiny().state_dict(), tmp_path / 'native.pth')

    def work(disk: Path) -> dict[str, Any]:
        import runpy
        import sys
        from unittest import mock

        (disk / 'there.pth').write_bytes(b'old')
        messages = []
        for name in ('there.pth', 'new.pth', 'new.safetensors'):
            tool = Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py'
            with mock.patch.object(
                sys, 'argv', [tool.name, str(tmp_path / 'native.pth'), str(disk / name), '--to', 'timm']
            ):
                try:
                    runpy.run_path(str(tool), run_name='__main__')
                except SystemExit as end:
                    messages.append(end.code)
        return dict(messages=messages, files={path.name: path.read_text() for path in disk.iterdir()})

    found, _ = on_a_small_disk(work, tmp_path, kilobytes=64)
    assert found['files'] == {'there.pth': 'old'}
    assert len(found['messages']) == 3
    for message in found['messages']:
        assert message.startswith(f'error: {tmp_path}/disk/') and 'cannot be written: it needs 0.' in message
