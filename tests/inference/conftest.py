"""The toy models as predictors, and an image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from toys import DETECTOR, SEGMENTOR, save_toy_checkpoint


@pytest.fixture(scope='session')
def seg_checkpoint(tmp_path_factory) -> Path:
    """Of the toy segmentor, with its classes noted."""
    _require_libraries()
    from mmtwins.demo.scenes import CLASSES, PALETTE

    meta = dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE, reduce_zero_label=True))
    return save_toy_checkpoint('mmseg', tmp_path_factory.mktemp('seg') / 'seg.pth', meta)


@pytest.fixture(scope='session')
def det_checkpoint(toy_checkpoints) -> Path:
    """Of the toy detector."""
    _require_libraries()
    return toy_checkpoints['mmdet']


@pytest.fixture(scope='session')
def segmentor(seg_checkpoint):
    """The toy segmentor."""
    from mmtwins.inference.predictor import Predictor

    return Predictor(SEGMENTOR, seg_checkpoint, 'cpu')


@pytest.fixture(scope='session')
def detector(det_checkpoint, toy_data):
    """The toy detector, every instance whatever its score."""
    from mmtwins.inference.predictor import Predictor

    return Predictor(DETECTOR, det_checkpoint, 'cpu', 0.0, {'data_root': str(toy_data / 'coco')})


@pytest.fixture(scope='session')
def photo(toy_data) -> np.ndarray:
    """(128, 128, 3) BGR."""
    return cv2.imread(str(next((toy_data / 'coco/val2017').iterdir())))


def _require_libraries() -> None:
    for package in ('mmseg', 'mmdet', 'mmcv._ext'):
        pytest.importorskip(package)
