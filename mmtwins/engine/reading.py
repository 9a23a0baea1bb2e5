"""Read images and labels once, and find out on the way what is wrong with the files.

A data set never stops a run for a fault that the public code trains through: such a file is warned of once, counted, and
the run goes on with what is there of it. A file that does not decode stops the run with a sentence that names it.
docs/finetuning.md lists the faults.

The configs read through the backend ``checked``. It hands the bytes to MMCV and remembers what it found, so that
``CheckImage`` and ``CheckLabels`` neither read nor decode the file again.
"""

import io
import mmap
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache

from mmengine.fileio import BaseStorageBackend, get_file_backend, register_backend

DECODERS = ('cv2', 'pillow')
_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
_PNG_START, _PNG_END = b'\x89PNG\r\n\x1a\n', b'\0\0\0\0IEND\xaeB`\x82'
_PNG_CHUNK, _PNG_CHECKSUM = struct.Struct('>I4s'), struct.Struct('>I')
_NO_IMAGE = 'is no image'

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

    Only a file that looks wrong is decoded, to see whether it can be. OpenCV 4 loses the last rows of a JPEG without an
    end marker, and OpenCV 5 refuses it. With an end marker both decode all that is there and leave the rest grey.

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
    fault = _examine(content)
    if fault:
        content += _JPEG_END if content.startswith(_JPEG_START) else _PNG_END if content.startswith(_PNG_START) else b''
        if not _decodes(content, decoder):
            raise ValueError(f'{path} {fault} and cannot be decoded: copy or download it again')
        fault = '' if fault == _NO_IMAGE else fault  # a format that Pillow does not know
    bits = content[24] if content.startswith(_PNG_START) else 0
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


def _examine(content: bytes) -> str:
    """What is wrong with an image file; nothing is decoded."""
    if not content:
        return 'is empty'
    if content.startswith(_JPEG_START):
        return '' if _is_whole_jpeg(content) else 'is truncated'
    if content.startswith(_PNG_START):
        return _examine_png(content)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)):
            return ''
    except Image.DecompressionBombError:
        return ''
    except Exception:  # each format has its own
        return _NO_IMAGE


def _is_whole_jpeg(content: bytes) -> bool:
    """Whether a JPEG file has its end marker behind its image data.

    Thumbnails in the header have markers too; those of the image itself come last.
    """
    if content.endswith(_JPEG_END):
        return _JPEG_SCAN in content
    return content.rfind(_JPEG_END) > content.rfind(_JPEG_SCAN) > 0


def _examine_png(content: bytes) -> str:
    """What is wrong with a PNG file, which is made of chunks: length, kind, data, checksum of kind and data."""
    position, kind = len(_PNG_START), b''
    try:
        while kind != b'IEND':
            length, kind = _PNG_CHUNK.unpack_from(content, position)
            end = position + 8 + length
            if _PNG_CHECKSUM.unpack_from(content, end) != (zlib.crc32(content[position + 4 : end]),):
                return 'is damaged'
            position = end + 4
    except struct.error:
        return 'is truncated'
    return ''


def _decodes(content: bytes, decoder: str) -> bool:
    import mmcv

    try:
        return mmcv.imfrombytes(content, flag='unchanged', backend=decoder) is not None
    except Exception:  # a damaged file fails anywhere in a decoder
        return False


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
