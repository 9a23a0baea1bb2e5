"""The maps as files: what is kept, replaced and refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmtwins.study.map_files import generate_maps, main
from mmtwins.study.maps import draw_map


def test_files_hold_the_maps_and_are_kept(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    root = generate_maps(tmp_path / 'maps', 2, 3, 1, 64, lambda *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    drawn = draw_map(2, 'train', 2, 64)
    assert np.array_equal(cv2.imread(str(root / 'images/training/00002.png'))[..., ::-1], drawn.image)
    labels = cv2.imread(str(root / 'annotations/training/00002.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, drawn.labels)
    generate_maps(tmp_path / 'maps', 2, 3, 1, 64, lambda *step: pytest.fail('drawn again'))
    generate_maps(tmp_path / 'maps', 3, 2, 1, 64)
    assert len(list((root / 'images/training').iterdir())) == 2


def test_foreign_folders_and_wrong_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/a.txt').write_text('')
    with pytest.raises(ValueError, match='holds other things than maps'):
        generate_maps(tmp_path / 'mine')
    for wrong in (dict(seed=-1), dict(num_train=0), dict(num_val=0), dict(size=63)):
        with pytest.raises(ValueError, match=f'{next(iter(wrong))}='):
            generate_maps(tmp_path / 'new', **wrong)
    with pytest.raises(SystemExit):
        main([str(tmp_path / 'mine')])
    assert 'holds other things' in capsys.readouterr().err
