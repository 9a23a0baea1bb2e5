"""Example images: copies of a folder's, or scenes."""

import cv2
import numpy as np
import pytest

from mmtwins.demo.scenes import CLASSES
from mmtwins.page.sample_images import MAX_EXAMPLES, gather_examples


def test_scenes_have_the_size_that_the_model_knows(tmp_path):
    small = gather_examples(None, CLASSES[:3], tmp_path / 'a')
    large = gather_examples(None, ('wall', 'sky'), tmp_path / 'b')
    assert len(small) == len(large) >= 3
    assert {cv2.imread(str(path)).shape for path in small} == {(128, 128, 3)}
    assert {cv2.imread(str(path)).shape for path in large} == {(512, 512, 3)}
    assert len({path.read_bytes() for path in small}) == len(small)


def test_images_of_a_folder_are_copied_and_other_files_left_out(tmp_path):
    folder = tmp_path / 'mine'
    (folder / 'deep').mkdir(parents=True)
    for i in range(MAX_EXAMPLES + 2):
        cv2.imwrite(str(folder / 'deep' / f'{i}.png'), np.full((40, 40, 3), i, np.uint8))
    for name in ('.hidden.png', 'text.txt', 'broken.jpg', 'film.mp4'):
        (folder / name).write_text('no image')
    out = tmp_path / 'out'
    found = gather_examples(folder, ('a',), out)
    assert [path.name for path in found] == [f'{i}.png' for i in range(MAX_EXAMPLES)]
    assert all(path.is_relative_to(out) for path in found)
    assert [cv2.imread(str(path))[0, 0, 0] for path in found] == list(range(MAX_EXAMPLES))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / 'text.txt').write_text('text')
    with pytest.raises(FileNotFoundError, match='holds no image'):
        gather_examples(tmp_path, ('a',), tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match=r'--examples .*none: there is no such folder'):
        gather_examples(tmp_path / 'none', ('a',), tmp_path / 'out')
