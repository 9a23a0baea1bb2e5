"""What is seen of damage without decoding, and what decodes all the same."""

import cv2
import numpy as np
import pytest

from mmtwins.datasets.damage import find_damage, mend

pytest.importorskip('mmcv')
IMAGE = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)


def encode(kind: str) -> bytes:
    return cv2.imencode(f'.{kind}', IMAGE)[1].tobytes()


@pytest.mark.parametrize('kind', ['jpg', 'png', 'bmp', 'webp', 'tiff'])
def test_whole_files(kind: str) -> None:
    content = encode(kind)
    assert find_damage(content) == ''
    assert mend(content, 'cv2') == (content, '')


@pytest.mark.parametrize(('kind', 'removed', 'end'), [('jpg', 2, b'\xff\xd9'), ('png', 12, b'\0\0\0\0IEND\xaeB`\x82')])
def test_an_end_is_added(kind: str, removed: int, end: bytes) -> None:
    content = encode(kind)
    mended, fault = mend(content[:-removed], 'cv2')
    assert (mended, fault) == (content[:-removed] + end, 'is truncated')
    assert (cv2.imdecode(np.frombuffer(mended, np.uint8), 1) == cv2.imdecode(np.frombuffer(content, np.uint8), 1)).all()


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'', 'is empty'),
        (b'text', 'is no image'),
        (encode('png')[:60], 'is truncated'),
        (encode('png')[:45] + b'x' + encode('png')[46:], 'is damaged'),
        (encode('jpg')[:200], 'is truncated'),
    ],
)
def test_what_does_not_decode_is_refused(content: bytes, fault: str) -> None:
    assert find_damage(content) == fault
    with pytest.raises(ValueError, match=rf'^{fault} and cannot be decoded$'):
        mend(content, 'pillow')
