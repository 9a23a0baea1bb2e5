"""The picture of a data set shows its classes, sizes and samples, for right data and for wrong ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmtwins.datasets import picture
from mmtwins.datasets.checking import check_datasets
from mmtwins.datasets.passes import Pass
from mmtwins.datasets.picture import draw_picture
from mmtwins.engine.config import load_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
Spoil = Callable[..., Config]


def draw(cfg: Config, path: Path) -> np.ndarray:
    (checked,) = check_datasets(cfg, ('train',), Pass(fast=True))
    assert draw_picture(checked, path) == path
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def count(image: np.ndarray, colour: tuple[int, int, int], slack: int = 3) -> int:
    return int((np.abs(image - np.array(colour)) <= slack).all(-1).sum())


@pytest.mark.parametrize('name', ['coco', pytest.param('ade', marks=pytest.mark.slow)])
def test_classes_have_bars_and_samples_their_colours(name: str, small_data: Path, tmp_path: Path) -> None:
    cfg = load_config(str(small_data / f'{name}.py'))
    palette = [(230, 0, 0), (0, 160, 0), (0, 0, 230), (200, 0, 200)][: 3 if name == 'coco' else 4]
    cfg.train_dataloader.dataset.metainfo['palette'] = palette
    image = draw(cfg, tmp_path / 'new' / 'a.png')
    assert image.shape[1] == 1300 and image.shape[0] > 1000
    assert all(count(image, colour) > 1000 for colour in palette)  # bars
    samples = image[450:]
    assert count(samples, palette[0], 60 if name == 'coco' else 120) > 200


def test_bars_are_as_high_as_the_counts(spoil_coco: Spoil, tmp_path: Path) -> None:
    def keep_some(content: dict) -> None:
        content['annotations'] = [one for one in content['annotations'] if one['category_id'] != 2 or one['id'] % 2]

    cfg = spoil_coco(keep_some)
    cfg.train_dataloader.dataset.metainfo['palette'] = [(230, 0, 0), (0, 160, 0), (0, 0, 230)]
    image = draw(cfg, tmp_path / 'a.png')[:400, :440]
    heights = [
        (np.abs(image - np.array(colour)) <= 3).all(-1).sum(0).max()
        for colour in ((230, 0, 0), (0, 160, 0), (0, 0, 230))
    ]
    (checked,) = check_datasets(cfg, ('train',), Pass(fast=True))
    counts = np.bincount(checked.coco.labels[checked.coco.used])
    assert np.allclose(np.array(heights) / heights[0], counts / counts[0], atol=0.03)


def spoil_everything(content: dict) -> None:
    first, second, third, fourth = content['annotations'][:4]
    first['bbox'] = [1e5, 1e5, 1e5, -5]
    second['segmentation'] = [[float('nan')] * 6]
    third['iscrowd'] = 1
    fourth['category_id'] = 9
    content['images'].pop()
    content['categories'].reverse()
    content['categories'][0]['name'] = 'a $formula_$ \x1b' + 'x' * 99


@pytest.mark.parametrize(
    'change',
    [spoil_everything, pytest.param(lambda content: content.update(annotations=[]), marks=pytest.mark.slow)],
    ids=['all', 'none'],
)
def test_wrong_data_are_drawn_too(change: Callable, spoil_coco: Spoil, tmp_path: Path) -> None:
    assert draw(spoil_coco(change), tmp_path / 'a.png').std() > 10


def test_nothing_is_drawn_where_nothing_can_be_read(spoil_coco: Spoil, tmp_path: Path) -> None:
    cfg = spoil_coco(lambda content: content.clear())
    (checked,) = check_datasets(cfg, ('train',), Pass(fast=True))
    assert draw_picture(checked, tmp_path / 'a.png') is None
    assert not (tmp_path / 'a.png').exists()


@pytest.mark.slow
def test_many_classes_and_no_palette(spoil_labels: Spoil, tmp_path: Path) -> None:
    names = [f'class {i}' for i in range(30)]
    cfg = spoil_labels(lambda root: None, **{'train_dataloader.dataset.metainfo': dict(classes=names, palette=[])})
    assert draw(cfg, tmp_path / 'a.png').shape[0] > 1300


@pytest.mark.filterwarnings('error:constrained_layout')
def test_boxes_are_binned_where_there_are_many(spoil_coco: Spoil, tmp_path: Path) -> None:
    def repeat(content: dict) -> None:
        first = content['annotations'][0]
        content['annotations'] += [
            dict(first, id=1000 + i, bbox=[*first['bbox'][:3], 10 + i / 500]) for i in range(3100)
        ]

    assert draw(spoil_coco(repeat), tmp_path / 'a.png').std() > 10


def test_other_kinds_of_images_are_shown(tmp_path: Path) -> None:
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(tmp_path / 'a.png')
    shown = picture._read_sample(str(tmp_path / 'a.png'), picture.Decoder(flag='unchanged'))
    assert shown.shape == (20, 30, 3) and shown.dtype == np.uint8 and (shown.min(), shown.max()) == (0, 255)


def test_regions_are_named_in_the_middle_of_their_pixels() -> None:
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    labels = np.full((9, 12), -1)
    labels[2:5, 1:4], labels[6:9, 8:11] = 1, 0
    labels[0, 0] = 5  # no class
    picture._name_regions(axis, labels, ('light', 'dark'), [(255, 255, 200), (0, 0, 90)])
    found = {text.get_text(): (text.get_position(), text.get_color()) for text in axis.texts}
    assert found == {'dark': ((2, 3), 'white'), 'light': ((9, 7), 'black')}
