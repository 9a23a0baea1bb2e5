"""Files that OpenCV reads only in part or not at all: several pictures, 16 bits, floating point."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmtwins.inference.pictures import UNREADABLE, note_on, unreadable

PICTURE = np.random.RandomState(0).randint(0, 255, (40, 60, 3), np.uint8)


def write_all(path: Path, pictures: int) -> str:
    first, *others = (Image.fromarray(np.roll(PICTURE, 8 * i, 0)) for i in range(pictures))
    first.save(path, **(dict(save_all=True, append_images=others, duration=100) if others else {}))
    return str(path)


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.tif', '.png'])
def test_all_pictures_but_the_first_are_named(suffix: str, tmp_path: Path) -> None:
    path = write_all(tmp_path / f'several{suffix}', 3)
    assert note_on(path, cv2.imread(path)).startswith('holds 3 pictures: only the first is predicted on')
    path = write_all(tmp_path / f'one{suffix}', 1)
    if suffix == '.gif' and cv2.imread(path) is None:
        pytest.skip('OpenCV reads GIF from version 4.12')
    assert note_on(path, cv2.imread(path)) == ''


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('is_grey', [False, True])
def test_16_bits_that_come_out_nearly_black_are_named(suffix: str, is_grey: bool, tmp_path: Path) -> None:
    pixels = PICTURE[..., 0] if is_grey else PICTURE
    for factor, is_dark in ((16, True), (257, False)):  # 12 bits of 16, as cameras write them; all 16
        path = str(tmp_path / f'{factor}{suffix}')
        cv2.imwrite(path, pixels.astype(np.uint16) * factor)
        note = note_on(path, cv2.imread(path))
        assert bool(re.search('its largest value is 1[56] of 255', note)) == is_dark, note
    cv2.imwrite(str(tmp_path / 'night.png'), PICTURE // 16)  # dark with 8 bits
    assert note_on(str(tmp_path / 'night.png'), PICTURE // 16) == ''


def test_pixels_that_opencv_does_not_read_are_named(tmp_path: Path) -> None:
    Image.fromarray(PICTURE[..., 0].astype(np.float32)).save(tmp_path / 'float.tif')
    assert unreadable(str(tmp_path / 'float.tif')).startswith(
        'floating-point pixels, which OpenCV does not read: scale'
    )
    (tmp_path / 'text.tif').write_text('hello')
    assert unreadable(str(tmp_path / 'text.tif')) == unreadable(str(tmp_path / 'gone.tif')) == UNREADABLE
