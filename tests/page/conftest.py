"""The toy models as the page has them, and images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from toys import DETECTOR, SEGMENTOR, save_toy_checkpoint

CLASSES = ('grass', 'sand', 'water', 'ball', 'kite', 'starfish', 'crate', 'buoy', 'windmill')


@pytest.fixture(scope='session')
def segmentor(tmp_path_factory):
    """The toy segmentor, with random weights and the notes of a training."""
    from mmengine.logging import HistoryBuffer

    _require_libraries()
    from mmtwins.inference.predictor import Predictor
    from mmtwins.weights.opening import read_file

    meta = dict(dataset_meta=dict(classes=CLASSES, reduce_zero_label=True))
    path = save_toy_checkpoint('mmseg', tmp_path_factory.mktemp('page-seg') / 'seg.pth', meta)
    import torch

    content = read_file(path)
    history = HistoryBuffer([12.0, 34.56], [1, 1])
    torch.save({**content, 'message_hub': dict(log_scalars={'val/mIoU': history})}, path)
    return Predictor(SEGMENTOR, path, 'cpu')


@pytest.fixture(scope='session')
def detector(toy_checkpoints, toy_data):
    """The toy detector, with random weights and scores from low to high."""
    _require_libraries()
    from mmtwins.inference.predictor import Predictor

    predictor = Predictor(DETECTOR, toy_checkpoints['mmdet'], 'cpu', 0.6, {'data_root': str(toy_data / 'coco')})
    predictor.inferencer.model.roi_head.bbox_head.fc_cls.weight.data *= 0.3
    return predictor


@pytest.fixture(scope='session')
def photo(tmp_path_factory) -> Path:
    """A scene of 96 x 128 pixels, stored lying on its side."""
    pytest.importorskip('cv2')
    from PIL import Image

    from mmtwins.demo.scenes import draw_scene

    exif = Image.Exif()
    exif[0x112] = 6
    path = tmp_path_factory.mktemp('photo') / 'a photo.jpg'
    Image.fromarray(draw_scene(0, 'val', 4).image[:96]).save(path, exif=exif, quality=95)
    return path


@pytest.fixture(scope='session')
def segmented(segmentor, photo):
    """The prediction of the segmentor for the photo."""
    from mmtwins.page.asking import Model

    return Model(segmentor).predict(photo).kept


@pytest.fixture(scope='session')
def detected(detector, photo):
    """The prediction of the detector for the photo."""
    from mmtwins.page.asking import Model

    return Model(detector).predict(photo).kept


@pytest.fixture(scope='session')
def bad_images(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """Files that are refused, and a part of the sentence that says why."""
    folder = tmp_path_factory.mktemp('bad')
    (folder / 'text.jpg').write_text('hello')
    (folder / 'empty.png').touch()
    cv2.imwrite(str(folder / 'tiny.png'), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(folder / 'huge.png'), np.zeros((6000, 6000), np.uint8))  # many pixels in a few bytes
    reasons = {'text.jpg': 'no image', 'empty.png': 'no image', 'tiny.png': 'too small', 'huge.png': 'too many'}
    return {name: (folder / name, reason) for name, reason in reasons.items()}


def _require_libraries() -> None:
    for package in ('mmseg', 'mmdet', 'mmcv._ext'):
        pytest.importorskip(package)
