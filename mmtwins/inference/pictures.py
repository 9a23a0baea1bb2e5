"""What is special about an image file: several pictures in one, dark 16-bit pixels, pixels that OpenCV cannot read."""

import numpy as np
from PIL import Image, UnidentifiedImageError

UNREADABLE = 'no image, a damaged one, or of a format that OpenCV does not read'
SEVERAL = ('.gif', '.webp', '.tif', '.tiff', '.png', '.apng')  # formats that can hold more than one picture
DEEP = ('I;16', 'I;16B', 'I;16L', 'I')  # Pillow's modes of one channel with 16 bits and more
NEARLY_BLACK = 32  # of 255: with all pixels below, nothing can be seen


def note_on(path: str, image: np.ndarray) -> str:
    """What a user should know of a file whose prediction is going to surprise.

    Args:
        path: Image file.
        image: As OpenCV has read it, (H, W) or (H, W, C) with 8 bits; of 16 bits it keeps the upper 8.

    Returns:
        The end of a sentence that begins with the file; empty if there is nothing to say.
    """
    if path.lower().endswith(SEVERAL):
        try:
            with Image.open(path) as file:
                pictures = getattr(file, 'n_frames', 1)
        except (OSError, ValueError):
            return ''
        if pictures > 1:
            return f'holds {pictures} pictures: only the first is predicted on, save the others as files of their own'
    if image.dtype == np.uint8 and image.size and _has_16_bits(path) and image.max() < NEARLY_BLACK:
        return (
            f'has 16 bits for each colour and uses only the lowest: as 8 bits, which the model takes, its largest value is '
            f'{image.max()} of 255. Scale its values to 0..255 and save it with 8 bits'
        )
    return ''


def unreadable(path: str) -> str:
    """Why OpenCV does not read a file, as far as Pillow knows."""
    try:
        with Image.open(path) as file:
            file.load()
            kind = {'F': 'floating-point', 'I': '32-bit'}.get(file.mode)
            if kind:
                return f'{kind} pixels, which OpenCV does not read: scale them to 0..255 and save them with 8 bits'
            return f'{file.format} with pixels of the kind {file.mode}, which OpenCV does not read: save it as PNG'
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return UNREADABLE


def _has_16_bits(path: str) -> bool:
    try:
        with open(path, 'rb') as file:
            head = file.read(25)
        if head.startswith(b'\x89PNG'):
            return head[24] == 16
        with Image.open(path) as image:
            bits = getattr(image, 'tag_v2', {}).get(258, ())  # BitsPerSample of TIFF
            return image.mode in DEEP or bits[:1] == (16,)
    except (OSError, ValueError):
        return False
