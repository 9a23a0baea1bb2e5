"""Label images: which there are, files, colours, sizes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from label_images import TRAIN, change_all, check, save
from mmengine.config import Config
from PIL import Image

from mmtwins.datasets.labels import inspect_labels

pytest.importorskip('mmseg')
Spoil = Callable[..., Config]


@pytest.mark.parametrize('fast', [False, True])
def test_right_data_are_counted(fast: bool, spoil_labels: Spoil) -> None:
    table, found = check(spoil_labels(lambda root: None), fast)
    assert not found and table is not None
    assert (table.first, table.last, table.ignored, len(table.facts)) == (1, 4, 255, 10)
    pixels = table.pixels()
    assert set(pixels) == {0, 1, 2, 3, 4}
    assert pixels[0] == sum(3 * fact.size[1] for fact in table.facts.values())
    assert table.images_with()[0] == 10


def test_what_a_label_image_holds(tmp_path: Path) -> None:
    labels = np.array([[0, 300], [300, 7]], np.uint16)
    fact = inspect_labels(save(tmp_path / 'a.png', labels))
    assert (fact.size, fact.values, fact.counts, fact.problem) == ((2, 2), (0, 7, 300), (1, 1, 2), '')
    palette = Image.fromarray(labels.astype(np.uint8)).convert('P')
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / 'b.png')
    assert inspect_labels(str(tmp_path / 'b.png')).problem == ''
    assert inspect_labels(save(tmp_path / 'c.png', np.zeros((2, 2), bool))).values == (0,)
    assert (
        inspect_labels(save(tmp_path / 'd.png', np.zeros((2, 2, 3), np.uint8))).problem == 'has 3 channels, all equal'
    )
    assert inspect_labels(save(tmp_path / 'e.png', np.zeros((2, 2, 4), np.uint8))).problem == 'has 4 channels'
    assert inspect_labels(save(tmp_path / 'f.tif', np.zeros((2, 2), np.float32))).problem == 'holds decimal numbers'
    (tmp_path / 'g.png').write_bytes((tmp_path / 'a.png').read_bytes()[:50])
    assert inspect_labels(str(tmp_path / 'g.png')).problem.startswith('cannot be decoded (')
    assert inspect_labels(str(tmp_path)).problem == 'is a folder'


@pytest.mark.parametrize('fast', [False, True])
def test_wrong_files_are_named(fast: bool, spoil_labels: Spoil) -> None:
    def spoil(root: Path) -> None:
        folder = root / TRAIN
        (folder / '0001.png').write_bytes(b'text')
        (folder / '0002.png').unlink()
        Image.new('RGB', (64, 96)).save(folder / '0006.png')
        labels = np.asarray(Image.open(folder / '0003.png'))
        save(folder / '0003.png', labels[:-1])
        save(
            folder / '0004.png',
            np.where(labels == 1, 9, 1).astype(np.uint8).repeat(2, 0)[:96, :80].repeat(2, 1)[:, :128],
        )
        save(folder / '0010.png', np.asarray(Image.open(folder / '0010.png')).T)
        (root / 'images/training/0005.jpg').unlink()

    cfg = spoil_labels(spoil)
    _, found = check(cfg, fast)
    folder = f'{cfg.data_root}/{TRAIN}'
    assert found['label-unreadable'].cases[0].startswith(f'{folder}/0001.png cannot be decoded')
    assert found['missing-file'].cases == (f'{folder}/0002.png does not exist',)
    assert found['label-mode'].cases == (f'{folder}/0006.png has 3 channels, all equal',)
    assert found['label-size'].cases == (
        f'{folder}/0003.png: 80 x 79, not 80 x 80',
        f'{folder}/0010.png: 96 x 64, not 64 x 96',
    )
    assert '1 would fit if turned' in found['label-size'].text
    assert found['label-value'].cases == (f'{folder}/0004.png has 9',)
    assert found['label-alone'].cases == (f'{folder}/0005.png',) and not found['label-alone'].is_error


def test_the_sample_is_widened_before_an_offset_is_claimed(
    spoil_labels: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmtwins.datasets.passes.SAMPLE', 2)
    rare = (80, 80)  # only images of this size have the last class

    def spoil(root: Path) -> None:
        change_all(root, lambda labels: labels if labels.shape == rare else np.where(labels == 4, 1, labels))

    table, found = check(spoil_labels(spoil), fast=True)
    assert not found and table is not None and len(table.facts) == 10


@pytest.mark.parametrize(
    ('options', 'code', 'text'),
    [
        ({'data_prefix.img_path': 'nowhere'}, 'folder', 'the folder does not exist'),
        ({'data_prefix.seg_map_path': ''}, 'label-file', 'data_prefix names no folder of label images'),
        ({'img_suffix': '.png'}, 'folder', 'it has no image that ends in .png, but 10 .jpg'),
        ({'ann_file': 'nothing.txt'}, 'file', 'the list of images does not exist'),
        ({'metainfo.classes': [], 'metainfo.palette': []}, 'classes', 'metainfo.classes is [], not a tuple of names'),
        (
            {'metainfo.classes': ('a', 'b'), 'metainfo.palette': []},
            'classes',
            'CheckLabels has num_classes=4 for 2 classes',
        ),
    ],
)
def test_settings_that_do_not_fit(options: dict, code: str, text: str, spoil_labels: Spoil) -> None:
    prefixed = {f'train_dataloader.dataset.{key}': value for key, value in options.items()}
    cfg = spoil_labels(lambda root: None)
    if options.get('data_prefix.seg_map_path') == '':
        cfg.train_dataloader.dataset.data_root = None
    cfg.merge_from_dict(prefixed)
    _, found = check(cfg)
    assert text in found[code].text and found[code].is_error


def test_a_list_of_images(spoil_labels: Spoil) -> None:
    cfg = spoil_labels(lambda root: (root / 'list.txt').write_text('0001\n0003\n\n'))
    cfg.train_dataloader.dataset.ann_file = 'list.txt'
    table, found = check(cfg)
    assert found['missing-file'].count == 1 and table is not None  # the empty line
    assert len(table.facts) == 2
