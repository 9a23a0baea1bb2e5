"""Small data for checks, written once, and copies of it to spoil."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config


@pytest.fixture(scope='session')
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``coco.py``, ``boxes.py`` and ``ade.py`` with their data, see :func:`small_data.write_small_data`."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    from small_data import write_small_data

    return write_small_data(tmp_path_factory.mktemp('small'))


@pytest.fixture
def spoil_coco(small_data: Path, tmp_path: Path) -> Callable[..., Config]:
    """Change the annotation file of a split in a copy of the data, and load the config for it."""

    def spoil(change: Callable[[dict], object], split: str = 'train', library: str = 'coco') -> Config:
        from mmtwins.engine.config import load_config

        root = tmp_path / 'coco'
        shutil.copytree(small_data / 'coco', root, dirs_exist_ok=True)
        path = root / f'annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return load_config(str(small_data / f'{library}.py'), dict(data_root=str(root)))

    return spoil


@pytest.fixture
def spoil_labels(small_data: Path, tmp_path: Path) -> Callable[..., Config]:
    """Change the folders of a segmentation data set in a copy, and load the config for it."""

    def spoil(change: Callable[[Path], object], **options: object) -> Config:
        from mmtwins.engine.config import load_config

        root = tmp_path / 'ade'
        shutil.copytree(small_data / 'ade', root, dirs_exist_ok=True)
        change(root)
        return load_config(str(small_data / 'ade.py'), dict(data_root=str(root), **options))

    return spoil
