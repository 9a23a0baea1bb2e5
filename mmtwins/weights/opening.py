"""Read one checkpoint file as weights only, after a look at what it is: nothing is run, unpacked or mapped before."""

import os
import pickle
import re
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .allowed import CAN_ALLOW_TYPES, WeightsPickle
from .saving import find_damage

LARGEST = 64  # GiB of a checkpoint
VARIABLE = 'MMTWINS_MAX_CHECKPOINT_GIB'
# Times the size of a file: torch.save does not compress, and weights that somebody has packed shrink little.
UNPACKED = 4
SMALL = 2**20  # bytes that any file may unpack to
FILES = 'the path of a .pth or .safetensors file'
DEPTH = 50  # dicts inside dicts
CONFIGS = ('message_hub', 'runtime_info', 'cfg'), ('meta', 'cfg')  # where MMEngine looks for the text of a config
noted_configs: set[str] = set()  # these texts, of all checkpoints that this process has read
ADVICE = 'Get it as plain weights, from its author'


class DamagedError(ValueError):
    """A checkpoint is cut off, damaged, or none at all."""


def read_file(path: Path, map_location: Any = None, mmap: bool = False, name: str | None = None) -> Any:
    """Read a checkpoint: a .safetensors file, or what ``torch.save`` wrote.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Leave tensors on the disk until they are used, and checksums alone.
        name: Of the checkpoint in messages, such as the URL that it was fetched by; None takes the path.

    Returns:
        All that it holds, but for what MMEngine would run or delete on resume.

    Raises:
        FileNotFoundError: There is no such file, or it is a folder, a device or a pipe.
        PermissionError: It may not be read.
        DamagedError: It is damaged, or no checkpoint.
        ValueError: It is too large to be one, or holds what may run code.
    """
    name = printable(name or path)
    size = _check_file(path, name)
    if path.suffix == '.safetensors':
        return _read_safetensors(path, name, map_location)
    options: dict[str, Any] = dict(weights_only=True) if CAN_ALLOW_TYPES else dict(pickle_module=WeightsPickle)
    with path.open('rb') as file:
        start = file.read(512)
    if start.startswith(b'PK\x03\x04'):  # PyTorch looks at the same four bytes
        _check_archive(path, name, size, mmap)
        options['mmap'] = mmap
    else:
        _check_other(path, name, start)
    with (
        _one_sentence(name, partial(find_damage, path) if options.get('mmap') else lambda: None),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter('ignore')  # about protocols of pickle that no checkpoint has
        content = torch.load(str(path), map_location=map_location, **options)  # mmap of torch 2.1 takes no Path
    _check_content(content, name, size)
    return _defuse(content)


def printable(name: object) -> str:
    """A name for a message; one with control characters as Python writes it."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def largest_size() -> int:
    """Bytes of the largest file that counts as a checkpoint.

    64 GiB, or the memory of this machine if that is less, since a checkpoint is read into it. 64 GiB hold 4.3 billion
    parameters in float32 with both moments of AdamW and an average: 32 times the largest recipe here. The environment
    variable ``MMTWINS_MAX_CHECKPOINT_GIB`` replaces both.

    Raises:
        ValueError: The variable is no number.
    """
    given = os.environ.get(VARIABLE)
    if given:
        try:
            return int(float(given) * 2**30)
        except (ValueError, OverflowError):
            raise ValueError(f'{VARIABLE}={given}: give a number of GiB, such as {LARGEST}') from None
    try:
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):  # not on every system
        return LARGEST * 2**30
    return min(LARGEST * 2**30, memory)


def _check_file(path: Path, name: str) -> int:
    """The size of a file in bytes; raises FileNotFoundError for what is none, ValueError for what is too large."""
    try:
        found = path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError):  # no such name, a link to itself, a name that no file can have
        raise FileNotFoundError(f'checkpoint {name} does not exist: give {FILES}') from None
    if not stat.S_ISREG(found.st_mode):
        kind = 'a folder' if stat.S_ISDIR(found.st_mode) else 'a device or a pipe'
        raise FileNotFoundError(f'checkpoint {name} is {kind}: give {FILES}')
    _check_size(name, found.st_size, 'is')
    return found.st_size


def _check_size(name: str, size: int, verb: str) -> None:
    limit = largest_size()
    if size > limit:
        raise ValueError(
            f'checkpoint {name} {verb} {size / 2**30:,.1f} GiB, too large for a model: more than '
            f'{limit / 2**30:,.1f} GiB are not read. {VARIABLE} sets another limit'
        )


@contextmanager
def _one_sentence(name: str, find_damage: Callable[[], str | None]) -> Iterator[None]:
    """Say in one sentence that a file is refused, and why."""
    try:
        yield
    except (PermissionError, ImportError):
        raise
    except Exception as error:  # a damaged file fails anywhere in the unpickler
        damage = find_damage()
        if damage:
            raise _damaged(name, damage) from None
        if not isinstance(error, pickle.UnpicklingError):
            lines = [line for line in str(error).splitlines() if line.strip()] or ['']
            reason = f'it is incomplete or no checkpoint: {type(error).__name__}: {printable(lines[0][:200])}'
            raise DamagedError(f'checkpoint {name} cannot be read, {reason}') from None
        found = re.search(r'GLOBAL (\S+)', str(error))
        raise ValueError(
            f'checkpoint {name} is refused: besides weights it holds {printable(found[1]) if found else "something"}, which '
            f'could run code, or it is no checkpoint at all. {ADVICE}'
        ) from None


def _damaged(name: str, damage: str, remedy: str = 'Get it again, or take another') -> DamagedError:
    return DamagedError(f'checkpoint {name} cannot be read: {damage}. {remedy}')


def _read_safetensors(path: Path, name: str, map_location: Any) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    device = map_location if isinstance(map_location, str | torch.device) else 'cpu'
    try:
        return {name: value.to(device) for name, value in load_file(path).items()}
    except Exception as error:
        raise DamagedError(
            f'checkpoint {name} cannot be read, it is incomplete or damaged: {printable(str(error)[:200])}'
        ) from None


def _check_archive(path: Path, name: str, size: int, without_checksums: bool) -> None:
    """Check what ``torch.save`` wrote before it is unpacked; raises ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # a damaged file fails anywhere in zipfile
        raise DamagedError(
            f'checkpoint {name} cannot be read, it is incomplete or no checkpoint. Get it again, or take another'
        ) from None
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(UNPACKED * size, SMALL):
        raise ValueError(
            f'checkpoint {name} is refused: its {size / 1e6:,.1f} MB unpack to {unpacked / 1e6:,.1f} MB, and weights do not. '
            f'{ADVICE}'
        )
    _check_size(name, unpacked, 'unpacks to')
    if any(entry.filename.endswith('/constants.pkl') for entry in entries):
        raise ValueError(f'checkpoint {name} is refused: it is a TorchScript program, which could run code. {ADVICE}')
    damage = None if without_checksums else find_damage(path)
    if damage:
        raise _damaged(name, damage)


def _check_other(path: Path, name: str, start: bytes) -> None:
    """Check what may be of a PyTorch before 1.6; raises ValueError."""
    if not start:
        raise _damaged(name, 'it is empty')
    text = start.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if text.startswith((b'<!', b'<html', b'<?xml', b'<head')):
        raise _damaged(name, 'it is a web page, not a checkpoint', 'Fetch the file itself')
    try:
        tarfile.open(path, 'r:').close()
    except Exception:  # as it should be
        return
    # Of a PyTorch before 0.1.10. One before 2.6 runs its code even when told to read weights only (CVE-2025-32434).
    raise ValueError(f'checkpoint {name} is refused: it is a .tar file, which could run code. {ADVICE}')


def _check_content(content: Any, name: str, size: int) -> None:
    """Refuse tensors that claim more numbers than the file holds, and dicts that contain themselves; raises ValueError."""
    numbers = sum(tensor.numel() * tensor.element_size() for tensor in _iter_tensors(content, name))
    if numbers > max(UNPACKED * size, 64 * SMALL):
        raise ValueError(
            f'checkpoint {name} is refused: its tensors would take {numbers / 1e6:,.1f} MB, and the file has '
            f'{size / 1e6:,.1f} MB. {ADVICE}'
        )


def check_plain(content: Any, path: str) -> None:
    """Check that all tensors of a checkpoint are plain ones, as models have them.

    Args:
        content: What was read.
        path: Of the checkpoint, for the message.

    Raises:
        ValueError: One is sparse, quantized, nested or without values.
    """
    for tensor in _iter_tensors(content, printable(path)):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise ValueError(
                f'checkpoint {printable(path)} holds a tensor that is sparse, quantized, nested or without values, and a '
                'model has plain ones: save it as such'
            )


def _iter_tensors(content: Any, name: str) -> Iterator[Tensor]:
    """The tensors of a checkpoint and of the dicts in it."""
    waiting, seen = [(content, 0)], set()
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Mapping) and (id(part), depth) not in seen:
            if depth > DEPTH:
                raise ValueError(f'checkpoint {name} is refused: its dicts lie inside each other without end. {ADVICE}')
            seen.add((id(part), depth))
            waiting += [(value, depth + 1) for value in part.values()]


def _defuse(content: Any) -> Any:
    """Leave out what MMEngine would act on when it resumes.

    Its Runner runs the text of a config that MMCV 1 noted under ``meta``, to find ``gpu_ids`` in it. Its CheckpointHook deletes
    the best checkpoint so far, by whichever path is noted.
    """
    parts = content if isinstance(content, dict) else {}
    if isinstance(parts.get('meta'), dict):
        parts['meta'].pop('config', None)
    hub = parts.get('message_hub')
    notes = hub.get('runtime_info') if isinstance(hub, dict) else None
    notes = notes if isinstance(notes, dict) else {}
    for key in [key for key in notes if str(key).startswith('best_ckpt')]:
        if not (isinstance(notes[key], str) and re.fullmatch(r'best_.*\.pth', os.path.basename(notes[key]))):
            del notes[key]
    _note_configs(content)
    return content


def _note_configs(content: Any) -> None:
    """Note the texts of configs, which ``Config.fromstring`` shall not run."""
    for keys in CONFIGS:
        with suppress(Exception):  # no such part, or another kind of thing
            text = reduce(getitem, keys, content)
            if isinstance(text, str):
                noted_configs.add(text)
