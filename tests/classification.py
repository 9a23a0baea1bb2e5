"""mmpretrain for tests that need it, generated images in folders by class, and recipes made small enough to train on them."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmtwins.engine.config import load_config

CLASSES = ('blue', 'green', 'red')
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(2, 2, 2, 2))
SIDE = 64  # pixels


def need_mmpretrain() -> None:
    """Import mmpretrain, with torchvision as it is or without its operators; skip the test where that does not work."""
    pytest.importorskip('cv2')
    from mmtwins.benchmark.peers import _import_peer

    try:
        _import_peer('mmpretrain')
    except ImportError as error:
        pytest.skip(f'needs mmpretrain: {error}')


def write_images(folder: Path) -> Path:
    """Write ``train/blue/blue_0.jpg`` and so on, six of each class, and ``val``, two of each; returns the folder."""
    from PIL import Image

    random = np.random.RandomState(0)
    for split, number in (('train', 6), ('val', 2)):
        for channel, name in enumerate(reversed(CLASSES)):
            (folder / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = random.randint(0, 100, (70 + i, 90 - i, 3)).astype(np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / split / name / f'{name}_{i}.jpg')
    return folder


def load_tiny(recipe: Path, images: Path | None = None, epochs: int = 1) -> Config:
    """Load a recipe with three classes, a tiny backbone and float32.

    Args:
        recipe: Of configs/imagenet.
        images: Of :func:`write_images`, to train on in batches of six at 64 x 64 pixels; None leaves the data.
        epochs: Length of the training.
    """
    cfg = load_config(str(recipe), {'data_root': str(images)} if images else None)
    cfg.model.backbone.update(arch=ARCH, drop_path_rate=0.1)
    cfg.model.head.update(in_channels=ARCH['embed_dims'][-1], num_classes=len(CLASSES), topk=(1,))
    cfg.model.data_preprocessor.num_classes = len(CLASSES)
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.train_cfg.max_epochs = epochs
    cfg.default_hooks.logger.interval = 1
    cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1,)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=6, num_workers=0, persistent_workers=False)
        loader.dataset.type = 'CustomDataset'  # ImageNet's has 1,000 folders
        for step in loader.dataset.pipeline:
            step.update({key: SIDE for key in ('scale', 'crop_size') if key in step})
    return cfg
