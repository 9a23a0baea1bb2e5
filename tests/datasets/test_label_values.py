"""Values of label images: those that are no class, and what shows that classes are numbered in another way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from label_images import TRAIN, change_all, check, save
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmseg')
Spoil = Callable[..., Config]


@pytest.mark.parametrize('fast', [False, True])
def test_labels_that_begin_with_0_where_0_is_ignored(fast: bool, spoil_labels: Spoil) -> None:
    _, found = check(spoil_labels(lambda root: change_all(root, lambda labels: np.maximum(labels, 1) - 1)), fast)
    assert list(found) == ['label-offset'] and found['label-offset'].is_error
    assert 'the values 0 to 3 occur and 4, the last class, never does' in found['label-offset'].text


def test_labels_that_begin_with_1_where_0_is_a_class(spoil_labels: Spoil) -> None:
    plain = {'train_dataloader.dataset.reduce_zero_label': False}
    _, found = check(spoil_labels(lambda root: change_all(root, lambda labels: np.maximum(labels, 1)), **plain))
    assert found['label-value'].count == 10
    assert 'have values that are no class: 4; with 4 classes they go from 0 to 3' in found['label-value'].text
    assert found['label-value'].remedy.startswith('The classes seem to begin with 1: subtract 1')
    _, found = check(spoil_labels(lambda root: None, **plain))
    assert 'set reduce_zero_label=True' in found['label-value'].remedy


@pytest.mark.parametrize('value', [0, 255])
def test_no_pixel_of_a_class(value: int, spoil_labels: Spoil) -> None:
    _, found = check(spoil_labels(lambda root: change_all(root, lambda labels: np.full_like(labels, value))))
    assert list(found) == ['no-label'] and found['no-label'].is_error and found['no-label'].count == 10


def test_only_one_class(spoil_labels: Spoil) -> None:
    def binary(labels: np.ndarray) -> np.ndarray:
        return np.where(labels > 1, 255, 1).astype(np.uint8)

    _, found = check(spoil_labels(lambda root: change_all(root, binary)))
    assert "all pixels that count are of one class, 'ground'" in found['one-class'].text
    assert '255 stands for no class' in found['one-class'].remedy
    assert not found['label-ignored'].is_error


def test_harmless_things_are_counted(spoil_labels: Spoil) -> None:
    def spoil(root: Path) -> None:
        change_all(root, lambda labels: np.where(labels == 4, 3, labels))
        path = root / TRAIN / '0002.png'
        save(path, np.zeros_like(np.asarray(Image.open(path))))

    cfg = spoil_labels(spoil, **{'train_dataloader.dataset.reduce_zero_label': True})
    _, found = check(cfg)
    assert {code: one.is_error for code, one in found.items()} == {'label-empty': False, 'label-offset': True}
    cfg = spoil_labels(lambda root: change_all(root, lambda labels: np.where(labels == 2, 3, labels)))
    _, found = check(cfg)
    assert found['class-empty'].cases == ('ball',) and not found['class-empty'].is_error
