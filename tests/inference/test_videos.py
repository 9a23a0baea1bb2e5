"""Videos: H.264 by PyAV, MPEG-4 part 2 without it, and what happens on a full disk."""

import errno
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import read_frames

from mmtwins.inference.videos import NOTE, VideoWriter, has_h264
from mmtwins.installing import how_to_install


def frames_of(number: int, height: int = 45, width: int = 63) -> list[np.ndarray]:
    """A bright bar, red on blue, that moves down."""
    frames = []
    for i in range(number):
        frame = np.full((height, width, 3), (20, 30, 200), np.uint8)
        frame[8 * i : 8 * i + 8] = (220, 40, 30)
        frames.append(frame)
    return frames


def write(path: Path, frames: list[np.ndarray], rate: float = 12.5) -> None:
    writer = VideoWriter(path, rate, *frames[0].shape[:2])
    for frame in frames:
        writer.add(frame)
    writer.close()


def codec_of(path: Path) -> str:
    code = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FOURCC))
    return code.to_bytes(4, 'little').decode().lower()


@pytest.mark.parametrize('has_pyav', [True, False])
def test_frames_come_back_in_order(has_pyav: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_pyav:
        monkeypatch.setitem(sys.modules, 'av', None)
        monkeypatch.setitem(sys.modules, 'av.codec', None)
    elif not has_h264():
        pytest.skip('needs PyAV with H.264')
    path, frames = tmp_path / 'new' / 'a.mp4', frames_of(5)
    write(path, frames)
    assert codec_of(path) in ({'avc1', 'h264'} if has_pyav else {'mp4v', 'fmp4'})
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, rel=1e-2)
    read = read_frames(path)
    assert len(read) == 5
    for frame, expected in zip(read, frames):
        assert frame.shape == (46, 64, 3)  # even, as the codecs need it
        assert np.abs(frame[:45, :63, ::-1].astype(int) - expected).mean() < 12


@pytest.mark.skipif(not has_h264(), reason='needs PyAV with H.264')
def test_a_browser_can_begin_to_play_before_it_has_all(tmp_path: Path) -> None:
    write(tmp_path / 'a.mp4', frames_of(3))
    content = (tmp_path / 'a.mp4').read_bytes()
    assert content.index(b'moov') < content.index(b'mdat')


def test_what_is_missing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'av', None)
    monkeypatch.setitem(sys.modules, 'av.codec', None)
    assert not has_h264()
    assert 'browsers do not play' in NOTE and how_to_install('video') in NOTE


@pytest.mark.skipif(not has_h264() or not Path('/dev/full').exists(), reason='needs PyAV and /dev/full')
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / 'a.mp4').symlink_to('/dev/full')
    with pytest.raises(OSError) as caught:
        write(
            tmp_path / 'a.mp4', [np.random.RandomState(i).randint(0, 255, (240, 320, 3), np.uint8) for i in range(40)]
        )
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename) == str(tmp_path / 'a.mp4')


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / 'a.mp4').mkdir()
    with pytest.raises(OSError, match=r'a\.mp4'):
        write(tmp_path / 'a.mp4', frames_of(2))
