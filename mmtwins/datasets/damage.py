"""Image files that are damaged: what can be seen of it, and what still decodes."""

import io
import struct
import zlib

_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
PNG_START, _PNG_END = b'\x89PNG\r\n\x1a\n', b'\0\0\0\0IEND\xaeB`\x82'
_PNG_CHUNK, _PNG_CHECKSUM = struct.Struct('>I4s'), struct.Struct('>I')
_NO_IMAGE = 'is no image'


def mend(content: bytes, decoder: str) -> tuple[bytes, str]:
    """Give a JPEG or PNG file without its end one, so that what is there of it decodes.

    OpenCV 4 loses the last rows of a JPEG without an end marker, and OpenCV 5 refuses it. With an end marker both decode all
    that is there and leave the rest grey.

    Args:
        content: Of the file.
        decoder: Who will decode it, as ``backend`` of ``mmcv.imfrombytes``.

    Returns:
        The content, and what is wrong with it although it decodes, such as ``'is truncated'``.

    Raises:
        ValueError: It does not decode.
    """
    fault = find_damage(content)
    if fault:
        content += _JPEG_END if content.startswith(_JPEG_START) else _PNG_END if content.startswith(PNG_START) else b''
        if not _decodes(content, decoder):
            raise ValueError(f'{fault} and cannot be decoded')
    return content, '' if fault == _NO_IMAGE else fault  # a format that Pillow does not know


def find_damage(content: bytes) -> str:
    """Say what is wrong with an image file as far as that can be seen without decoding it; ``''`` if nothing is."""
    if not content:
        return 'is empty'
    if content.startswith(_JPEG_START):
        return '' if _is_whole_jpeg(content) else 'is truncated'
    if content.startswith(PNG_START):
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
    position, kind = len(PNG_START), b''
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
