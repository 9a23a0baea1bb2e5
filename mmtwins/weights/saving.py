"""Write files whole or not at all, and tell whether a checkpoint is whole."""

import io
import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**20  # bytes written, and read back, at a time
PARTIAL = '.partial'  # ends the name of a file that is being written


def serialise(checkpoint: Mapping[str, Any]) -> bytes:
    """What ``torch.save`` writes of a checkpoint."""
    with io.BytesIO() as file:
        torch.save(checkpoint, file)
        return file.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole, or as it was before, whenever process or machine stop.

    The content goes into a hidden file in the same folder and to the disk, is read back, and only then takes the name.

    Args:
        path: File to write; its folder exists.
        content: All of it.

    Raises:
        OSError: It cannot be written, for example because the disk is full. What was there before stays.
    """
    partial = path.with_name(f'.{path.name}{PARTIAL}')
    try:
        _check_room(path.parent, len(content))
        _write(partial, content)
        _read_back(partial, content)
        os.replace(partial, path)
        _settle(path.parent)
    except OSError as error:
        raise OSError(f'{path} cannot be written: {error.strerror or error}') from None
    finally:
        partial.unlink(missing_ok=True)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f'it needs {size / 1e6:,.1f} MB, and the disk has {free / 1e6:,.1f} MB left')


def _write(path: Path, content: bytes) -> None:
    """Write through to the disk, and let the system forget what it has in memory of the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left[:CHUNK]) :]
        os.fsync(descriptor)
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _read_back(path: Path, content: bytes) -> None:
    with path.open('rb') as file:
        for start in range(0, len(content), CHUNK):
            if file.read(CHUNK) != content[start : start + CHUNK]:
                raise OSError('the disk gave back something else than was written to it')


def _settle(folder: Path) -> None:
    """Bring a new name in a folder to the disk; some network file systems do so themselves and refuse to be asked."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left in a folder that nobody else writes to."""
    for path in folder.glob(f'.*{PARTIAL}'):
        path.unlink(missing_ok=True)


def find_damage(path: Path) -> str | None:
    """Compare a checkpoint with the checksums that PyTorch has written into it, which ``torch.load`` ignores.

    Args:
        path: What ``torch.save`` wrote.

    Returns:
        What is wrong with it, in words; None for a whole file.
    """
    with path.open('rb') as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except Exception:  # a damaged file fails anywhere in zipfile
            return 'it is cut off, or no checkpoint'
    return f'it is damaged: the checksum of {damaged} is wrong' if damaged else None


def first_not_finite(weights: Mapping[str, Any], prefix: str = '') -> str | None:
    """Name of the first tensor that holds NaN or infinity, in a dict of tensors and dicts; None if all are finite."""
    for name, value in weights.items():
        if isinstance(value, Mapping):
            found = first_not_finite(value, f'{prefix}{name}.')
            if found:
                return found
        elif isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            return f'{prefix}{name}'
    return None
