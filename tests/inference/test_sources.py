"""What to predict on: files, folders, patterns and videos."""

from pathlib import Path

import numpy as np
import pytest
from pictures import write_video

pytest.importorskip('mmcv._ext')

from mmtwins.inference.sources import count_frames, find_sources, is_video, read_video, without_results


def test_sources(tmp_path):
    for name in ('b.jpg', 'a/2.jpg', 'a/10.jpg', '.hidden.jpg', '.folder/x.jpg', 'odd[1].jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'empty').mkdir()
    files = [str(tmp_path / name) for name in ('a/10.jpg', 'a/2.jpg', 'b.jpg', 'odd[1].jpg')]
    assert find_sources(tmp_path) == files
    assert find_sources(f'{tmp_path}/**/*.jpg') == files
    assert find_sources(tmp_path / 'odd[1].jpg') == files[-1:]
    assert find_sources([tmp_path / 'b.jpg', 'gone.jpg']) == [files[2], 'gone.jpg']
    for name, message in (('empty', 'holds no files'), ('gone.jpg', 'no such file'), ('*.webp', 'no file matches')):
        with pytest.raises(FileNotFoundError, match=message):
            find_sources(tmp_path / name)


def test_videos_are_known_by_suffix():
    assert [is_video(name) for name in ('a.MP4', 'b/c.mkv', 'a.jpg', 'mp4', np.zeros(1))] == [True, True] + 3 * [False]


def test_all_frames_of_a_video_are_read_in_order(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :16] = 255
    path = write_video(tmp_path / 'a.mp4', image, frames=13)
    assert count_frames(path) == 13
    frames = list(read_video(path, lambda *skipped: pytest.fail(str(skipped))))
    assert [int(frame[32].mean(axis=1).argmax()) // 8 for frame in frames] == [
        int(np.roll(image, 8 * i, axis=1)[32].mean(axis=1).argmax()) // 8 for i in range(13)
    ]


def test_a_video_that_cannot_be_read_or_ends_early_is_told(tmp_path):
    image = np.random.RandomState(0).randint(0, 255, (64, 96, 3), np.uint8)
    content = Path(write_video(tmp_path / 'whole.avi', image, frames=20)).read_bytes()
    (tmp_path / 'cut.avi').write_bytes(content[: len(content) // 2])
    (tmp_path / 'text.mp4').write_text('hello')
    skipped = {}
    for name in ('cut.avi', 'text.mp4', 'gone.mp4'):
        read = list(read_video(str(tmp_path / name), skipped.__setitem__))
        assert (len(read) > 0) == (name == 'cut.avi')
    assert count_frames(str(tmp_path / 'gone.mp4')) == count_frames(str(tmp_path / 'text.mp4')) == 0
    assert skipped[str(tmp_path / 'gone.mp4')] == 'No such file or directory'
    assert skipped[str(tmp_path / 'text.mp4')].startswith('no video')


def test_results_of_an_earlier_run_are_left_out(tmp_path):
    for name in ('a.jpg', 'out/b.jpg', 'outer/c.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = find_sources(tmp_path)
    kept = without_results(sources, str(tmp_path), str(tmp_path / 'out'))
    assert kept == [str(tmp_path / 'a.jpg'), str(tmp_path / 'outer/c.jpg')]
    assert without_results(sources, str(tmp_path), '/elsewhere') == sources
    inner = find_sources(tmp_path / 'out')
    assert without_results(inner, str(tmp_path / 'out'), str(tmp_path / 'out')) == inner  # is the folder itself
    with pytest.raises(FileNotFoundError, match='holds no files but results'):
        without_results(inner, str(tmp_path), str(tmp_path / 'out'))
