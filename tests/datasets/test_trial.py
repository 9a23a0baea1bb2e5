"""A data set is loaded, and samples go through pipeline and batch, as a training does it."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmtwins.datasets.findings import Finding, Findings
from mmtwins.datasets.trial import try_pipeline
from mmtwins.engine.config import load_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def run(cfg: Config, *favourites: str, split: str = 'train') -> list[Finding]:
    findings = Findings()
    try_pipeline(cfg, split, favourites, findings)
    return findings.finish()


@pytest.mark.parametrize('name', ['coco', 'ade'])
def test_right_data(name: str, small_data: Path) -> None:
    cfg = load_config(str(small_data / f'{name}.py'))
    assert not run(cfg) and not run(cfg, split='val')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    assert not run(cfg)


def test_failures_name_the_file(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'ade.py'), {'train_dataloader.dataset.pipeline': [dict(type='PackSegInputs')]})
    (found,) = run(cfg)
    assert found.path.startswith(str(small_data / 'ade/images/training/0001.jpg')) and found.is_error
    assert found.text.startswith('loading a sample as the train split does fails: ')
    cfg = load_config(str(small_data / 'ade.py'), {'train_dataloader.dataset.nothing': 1})
    (found,) = run(cfg)
    assert found.path == 'train_dataloader.dataset' and "unexpected keyword argument 'nothing'" in found.text


def test_favourites_are_tried(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'ade.py'))
    favourite = str(small_data / 'ade/images/training/0004.jpg')  # the only one of the three with 128 pixels
    cfg.model.data_preprocessor.size = (100, 100)
    assert not run(cfg)
    (found,) = run(cfg, favourite)
    assert favourite in found.path or 'stack expects each tensor to be equal size' in found.text


def test_images_too_small_for_the_model(small_data: Path) -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(24, 24)), dict(type='PackSegInputs')]
    cfg = load_config(str(small_data / 'ade.py'), {'val_dataloader.dataset.pipeline': pipeline})
    (found,) = run(cfg, split='val')
    assert 'the model gets 24 x 24 pixels, and needs 32 on each side' in found.text


def test_a_data_set_without_a_sample(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'coco.py'), {'train_dataloader.dataset.filter_cfg': dict(min_size=1000)})
    (found,) = run(cfg)
    assert found.path == 'train_dataloader.dataset' and 'fails: ' in found.text
