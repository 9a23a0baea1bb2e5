"""The checks of what was loaded, on real files, alone and behind MMSegmentation's own loading."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

from mmtwins.engine.transforms import CheckImage, CheckLabels


def write_labels(folder: Path, values: list[int], dtype: type = np.uint8) -> dict:
    Image.fromarray(np.array([values, values], dtype=dtype)).save(folder / 'b.png')
    return dict(seg_map_path=str(folder / 'b.png'), seg_fields=[])


@pytest.mark.parametrize(
    ('values', 'reduce', 'ignore_label'),
    [([0, 1, 150], True, None), ([0, 149], False, None), ([0, 149, 255], False, 255), ([0, 150, 255], True, 255)],
)
def test_classes_and_ignored_labels_pass(
    values: list[int], reduce: bool, ignore_label: int | None, tmp_path: Path
) -> None:
    results = dict(write_labels(tmp_path, values), reduce_zero_label=reduce)
    assert CheckLabels(num_classes=150, ignore_label=ignore_label)(results) is results


@pytest.mark.parametrize(
    ('label', 'dtype', 'reduce', 'message'),
    [
        (151, np.uint8, True, r'b\.png has the label 151, but labels go from 0 to 150 for 150 classes and 0 = other'),
        (255, np.uint8, True, 'has the label 255'),
        (300, np.uint16, True, 'has the label 300'),  # class 44 once cut down to eight bits
        (150, np.uint8, False, r'b\.png has the label 150, but labels go from 0 to 149 for 150 classes: correct'),
    ],
)
def test_a_label_without_a_class_is_refused_behind_mmseg_too(
    label: int, dtype: type, reduce: bool, message: str, tmp_path: Path
) -> None:
    results = dict(write_labels(tmp_path, [0, 1, label], dtype), reduce_zero_label=reduce)
    with pytest.raises(ValueError, match=message):
        CheckLabels(num_classes=150)(dict(results))
    pytest.importorskip('mmseg.datasets.transforms')
    with DefaultScope.overwrite_default_scope('mmseg'), pytest.raises(ValueError, match=message):
        pipeline = [dict(type='LoadAnnotations'), dict(type='CheckLabels', num_classes=150)]
        Compose([dict(step, _scope_='mmseg') for step in pipeline])(results)


def test_a_colour_picture_is_no_label_image(tmp_path: Path) -> None:
    Image.new('RGB', (4, 4)).save(tmp_path / 'b.png')
    with pytest.raises(ValueError, match=r'b\.png is no label image: it has 3 channels'):
        CheckLabels(num_classes=150)(dict(seg_map_path=str(tmp_path / 'b.png')))


def test_images_without_annotation_pass() -> None:
    results = dict(img_path=None)
    assert CheckLabels(num_classes=150)(results) is results
    assert CheckImage()(results) is results


@pytest.mark.parametrize('with_thumbnail', [False, True])
@pytest.mark.parametrize('kept', [1.0, 0.999, 0.9, 0.5])
def test_truncated_jpegs_are_refused(kept: float, with_thumbnail: bool, tmp_path: Path) -> None:
    path = tmp_path / 'a.JPG'
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8))
    options = {}
    if with_thumbnail:
        picture.resize((8, 8)).save(path, 'JPEG')
        options = dict(comment=path.read_bytes())
    picture.save(path, 'JPEG', **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    results = dict(img_path=str(path))
    if kept == 1.0:
        assert CheckImage()(results) is results
    else:
        with pytest.raises(ValueError, match=r'a\.JPG is truncated'):
            CheckImage()(results)


def test_resolve_from_both_libraries() -> None:
    for library in ('mmseg', 'mmdet'):
        registry = pytest.importorskip(f'{library}.registry').TRANSFORMS
        for transform in (CheckImage, CheckLabels):
            assert registry.get(transform.__name__) is TRANSFORMS.get(transform.__name__) is transform
