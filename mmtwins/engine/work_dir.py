"""The work directory of a training: which checkpoint in it to continue from, and one training in it at a time."""

import errno
import fcntl
import os
import re
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from ..weights.opening import DamagedError, read_file
from ..weights.saving import find_damage, first_not_finite

STATE = ('meta', 'state_dict', 'message_hub')  # what MMEngine's Runner resumes from
LOCK = '.lock'
PATIENCE = 2  # seconds to wait for a process that is being killed to end
PATIENCE_WITH_JOB = 120  # the same for an earlier process of the same Slurm job
_held: dict[str, int] = {}  # descriptors of locks, by work directory


class Newest(NamedTuple):
    """The checkpoint to continue from, None without any, and a sentence for each that was passed over."""

    path: str | None
    notes: list[str]


def find_newest_checkpoint(work_dir: Path, out_dir: str | None = None, template: str = 'iter_{}.pth') -> Newest:
    """Find the newest checkpoint of a training that is whole, finite, and holds what is needed to resume.

    Newest is the one that was written last, by the time that it notes itself. So copies of a work directory, pointers to
    other places and interrupted writes do not matter.

    Args:
        work_dir: Work directory.
        out_dir: ``out_dir`` of the checkpoint hook, the parent of the folder for checkpoints if it is not ``work_dir``.
        template: ``filename_tmpl`` of the checkpoint hook.

    Returns:
        The checkpoint and the sentences.

    Raises:
        ValueError: A whole file holds more than weights and may run code.
        PermissionError: A file may not be read.
    """
    if out_dir and '://' in out_dir:  # not on a local disk: MMEngine's pointer tells
        return Newest(find_latest_checkpoint(str(work_dir)), [])
    folder = Path(out_dir, work_dir.resolve().name) if out_dir else work_dir
    own = re.escape(template).replace(r'\{\}', r'\d+')
    paths = [path for path in sorted(folder.glob('*')) if re.fullmatch(rf'{own}|(iter|epoch)_\d+\.pth', path.name)]
    notes, found = [], []
    for path in (path for path in paths if path.is_file()):
        checkpoint, problem = _read(path)
        if problem:
            notes.append(f'{path} is passed over: {problem}')
        else:
            meta = checkpoint['meta']
            found.append((str(meta.get('time', '')), meta['iter'], path, checkpoint))
    for *_, path, checkpoint in sorted(found, key=lambda entry: entry[:3], reverse=True):
        problem = find_damage(path) or _find_bad_weights(checkpoint)
        if not problem:
            return Newest(str(path), notes)
        notes.append(f'{path} is passed over: {problem}')
    return Newest(None, notes)


def _read(path: Path) -> tuple[dict[str, Any], str | None]:
    """What a checkpoint holds, its tensors left on the disk, and what hinders to resume from it."""
    try:
        checkpoint = read_file(path, 'cpu', mmap=True)
    except ValueError as error:
        if zipfile.is_zipfile(path) and not isinstance(error, DamagedError):
            raise  # it may run code: a whole file is not passed over for that
        return {}, find_damage(path) or 'it is damaged'
    return checkpoint, find_missing_state(checkpoint)


def find_missing_state(checkpoint: Any) -> str | None:
    """What a checkpoint lacks to resume a training from it, in words; None if it lacks nothing."""
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [part for part in STATE if not isinstance(parts.get(part), dict)]
    missing += [] if missing else [f'meta.{part}' for part in ('iter', 'epoch') if part not in parts['meta']]
    return f'it holds no state of a training to resume: {", ".join(missing)} missing' if missing else None


def _find_bad_weights(checkpoint: dict[str, Any]) -> str | None:
    name = first_not_finite(checkpoint['state_dict'])
    return f'{name} holds numbers that are not finite (NaN or infinity)' if name else None


def resume_if_possible(cfg: Config) -> list[str]:
    """Let a config continue from the newest checkpoint of its work directory, or start from the beginning, in place.

    Args:
        cfg: The whole config. ``resume`` and ``load_from`` are set: without a checkpoint, ``load_from`` stays and
            ``resume`` becomes False.

    Returns:
        Sentences about what was chosen.

    Raises:
        ValueError, OSError: As :func:`find_newest_checkpoint`.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    names = {'template': hook['filename_tmpl']} if hook.get('filename_tmpl') else {}
    newest = find_newest_checkpoint(Path(cfg.work_dir), hook.get('out_dir'), **names)
    cfg.resume = newest.path is not None
    if newest.path is not None:
        cfg.load_from = newest.path
        return [*newest.notes, f'The training continues from {newest.path}']
    weights = f', with the weights of {cfg.load_from}' if cfg.get('load_from') else ''
    return [
        *newest.notes,
        f'{cfg.work_dir} has no checkpoint to resume: the training starts from the beginning{weights}',
    ]


def lock_work_dir(work_dir: str) -> Callable[[], None]:
    """Keep other trainings out of a work directory until this process ends.

    Args:
        work_dir: Work directory; it is made if there is none.

    Returns:
        A function that lets go of it; it does nothing if this process has held it before the call.

    Raises:
        ValueError: Another training holds it.
    """
    key = str(Path(work_dir).resolve())
    if key in _held:
        return lambda: None
    Path(key).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(Path(key, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
    job = os.environ.get('SLURM_JOB_ID')
    begun = time.monotonic()
    while not _try_to_lock(descriptor):
        holder = os.pread(descriptor, 1000, 0).decode(errors='replace').strip() or 'an unknown process'
        is_own_job = job is not None and holder.endswith(f'Slurm job {job}')
        if time.monotonic() > begun + (PATIENCE_WITH_JOB if is_own_job else PATIENCE):
            os.close(descriptor)
            raise ValueError(
                f'another training writes to {work_dir}: {holder}. Wait for its end, or name another folder with --work-dir'
            )
        time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    about = f'process {os.getpid()} on {socket.gethostname()}' + (f', Slurm job {job}' if job else '')
    os.pwrite(descriptor, about.encode(), 0)
    _held[key] = descriptor

    def release() -> None:
        if key in _held:
            os.close(_held.pop(key))

    return release


@contextmanager
def locked_work_dir(work_dir: str) -> Iterator[None]:
    """Hold a work directory inside a ``with`` block, see :func:`lock_work_dir`."""
    release = lock_work_dir(work_dir)
    try:
        yield
    finally:
        release()


def _try_to_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True  # also on a file system without locks


def _forget_locks() -> None:
    """In a forked worker, which may outlive a training that is killed and must not hold its lock."""
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_forget_locks)
