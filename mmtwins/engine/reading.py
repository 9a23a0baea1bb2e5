"""Read images and labels once, and find out on the way what is wrong with the files.

A data set never stops a run for a fault that the public code trains through: such a file is warned of once, counted, and
the run goes on with what is there of it. A file that does not decode stops the run with a sentence that names it.
docs/finetuning.md lists the faults.

The configs read through the backend ``checked``. It hands the bytes to MMCV and remembers what it found, so that
``CheckImage`` and ``CheckLabels`` neither read nor decode the file again.
"""

import mmap
import os
import warnings
import zlib
from dataclasses import dataclass
from functools import cache

from mmengine.fileio import BaseStorageBackend, get_file_backend, register_backend

from ..datasets.damage import PNG_START, mend

DECODERS = ('cv2', 'pillow')

# A byte for each fault that was told. Processes that are forked later share it, so a run tells of each only once.
_told = mmap.mmap(-1, 1 << 20)


class DataFileWarning(UserWarning):
    """A data file has a fault that the run goes on with."""


@dataclass(slots=True)
class Reading:
    """A file as it was read.

    Attributes:
        path: Its name.
        content: Its bytes; where the end of a JPEG or PNG is missing, with an end.
        bits: Bits for each channel of a pixel of a PNG; 0 for other formats.
        fault: What is wrong with it although it decodes, such as ``'is truncated'``; empty if nothing is.
    """

    path: str
    content: bytes
    bits: int
    fault: str


_last: Reading | None = None


@register_backend('checked', force=True)
class CheckedBackend(BaseStorageBackend):
    """Read through another backend, and refuse what does not decode: ``backend_args=dict(backend='checked')``.

    Args:
        decoder: Who will decode the files: ``'cv2'`` as ``LoadImageFromFile`` does, or ``'pillow'`` as MMSegmentation's
            ``LoadAnnotations`` does. The same as ``imdecode_backend`` there.
        backend_args: Backend to read through, as MMEngine takes it; None goes by the prefix of the file's name.
    """

    def __init__(self, decoder: str = 'cv2', backend_args: dict | None = None) -> None:
        if decoder not in DECODERS:
            raise ValueError(f'decoder={decoder!r} is unknown: take one of {", ".join(DECODERS)}')
        self.decoder = decoder
        self.backend_args = backend_args

    def get(self, filepath: str | os.PathLike) -> bytes:
        """Read a file; raises as :func:`read`."""
        return read(filepath, self.decoder, self.backend_args).content

    def get_text(self, filepath: str | os.PathLike, encoding: str = 'utf-8') -> str:
        """Read a text file, unchecked."""
        return _backend(filepath, self.backend_args).get_text(filepath, encoding=encoding)


def read(path: str | os.PathLike, decoder: str = 'cv2', backend_args: dict | None = None) -> Reading:
    """Read an image or a label image, and check it as far as that is possible without decoding it.

    Only a file that looks wrong is decoded, see :func:`mmtwins.datasets.damage.mend`.

    Args:
        path: File, or what the backend takes for one.
        decoder, backend_args: As for :class:`CheckedBackend`.

    Returns:
        What was read; :func:`last_reading` returns it too, until the next call.

    Raises:
        OSError: It cannot be read.
        ValueError: It does not decode.
    """
    global _last
    content = _backend(path, backend_args).get(path)
    try:
        content, fault = mend(content, decoder)
    except ValueError as error:
        raise ValueError(f'{path} {error}: copy or download it again') from None
    bits = content[24] if content.startswith(PNG_START) else 0
    _last = Reading(str(path), content, bits, fault)
    return _last


def last_reading(path: str | os.PathLike) -> Reading | None:
    """What :func:`read` returned last in this process, if that was for ``path``."""
    reading = _last
    return reading if reading is not None and reading.path == str(path) else None


def _backend(path: str | os.PathLike, backend_args: dict | None) -> BaseStorageBackend:
    if backend_args is None and '://' not in str(path):
        return _local_backend()
    return get_file_backend(path, backend_args=backend_args, enable_singleton=True)


@cache
def _local_backend() -> BaseStorageBackend:
    return get_file_backend('')  # the look-up would cost a quarter of the check


def warn_once(message: str, key: str = '') -> None:
    """Warn of a fault that the run goes on with, unless it was told before.

    Each fault is told once by this process and all that it forks, such as the DataLoader's workers on Linux, in all
    epochs. Processes started in another way (another rank, workers of ``mp_start_method='spawn'``) tell it once each.

    Args:
        message: Sentence with the file's name.
        key: What counts as the same fault; the message if empty.
    """
    place = zlib.crc32((key or message).encode()) % len(_told)
    if not _told[place]:
        _told[place] = 1
        warnings.warn(f'{message} ({count_told()} warned of so far)', DataFileWarning, stacklevel=2)


def count_told() -> int:
    """How many faults :func:`warn_once` told of, those in forked processes included."""
    return _told[:].count(1)
