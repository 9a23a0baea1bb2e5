"""Categories of a file against the classes of a config, by name and by order."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from mmtwins.datasets.coco import check_coco
from mmtwins.datasets.data_sources import find_sources
from mmtwins.datasets.findings import Finding, Findings

pytest.importorskip('mmdet')
Spoil = Callable[..., Config]


def check(cfg: Config) -> dict[str, Finding]:
    findings = Findings()
    check_coco(find_sources(cfg, ('train',))[0], findings)
    return {one.code: one for one in findings.finish()}


NAMES = {
    'misspelt': (lambda c: c['categories'][1].update(name='Crate '), 'classes', "'crate'; the file has 'Crate '"),
    'missing': (lambda c: c['categories'].pop(0), 'classes', "1 of the 3 classes of the config are no categories"),
    'others': (
        lambda c: [one.update(name=f'x{i}') for i, one in enumerate(c['categories'])],
        'classes',
        "none of the config's classes is a category of the file",
    ),
    'twice': (
        lambda c: c['categories'].append(dict(id=9, name='ball')),
        'classes',
        'several categories of one name',
    ),
    'reordered': (
        lambda c: c['categories'].reverse(),
        'class-order',
        "class 0 is 'ball' in the config and 'kite' for MMDetection",
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', NAMES)
def test_categories_against_classes(name: str, spoil_coco: Spoil) -> None:
    change, code, text = NAMES[name]
    found = check(spoil_coco(change))
    assert found[code].is_error and text in found[code].sentence
    if name == 'reordered':
        assert "Write classes = ('kite', 'crate', 'ball') in the config" in found[code].remedy


def test_the_order_matters_as_the_check_says(spoil_coco: Spoil) -> None:
    """MMDetection numbers classes in the order of the file, and names them in that of the config."""
    from mmdet.datasets import CocoDataset

    cfg = spoil_coco(lambda content: content['categories'].reverse())
    config = {**cfg.train_dataloader.dataset, 'pipeline': []}
    config.pop('type')
    dataset = CocoDataset(**config)
    content = json.loads(Path(dataset.ann_file).read_text())
    first = content['annotations'][0]
    label = dataset.get_data_info(0)['instances'][0]['bbox_label']
    name = {category['id']: category['name'] for category in content['categories']}[first['category_id']]
    assert dataset.metainfo['classes'][label] != name == 'ball'


def test_classes_that_are_no_names(spoil_coco: Spoil) -> None:
    cfg = spoil_coco(lambda content: None)
    cfg.train_dataloader.dataset.metainfo = dict(classes=[1, 2])
    assert 'is [1, 2], not a tuple of names' in check(cfg)['classes'].text
    cfg.train_dataloader.dataset.metainfo = dict(classes=('ball', 'ball', 'kite', 'crate'))
    assert 'has a name twice' in check(cfg)['classes'].text
    cfg.train_dataloader.dataset.metainfo = dict(classes=('ball', 'crate', 'kite'), palette=[(0, 0, 0)])
    assert 'palette has 1 colours for 3 classes' in check(cfg)['classes'].text


def test_some_of_the_categories_may_be_classes(spoil_coco: Spoil) -> None:
    cfg = spoil_coco(lambda content: None)
    cfg.train_dataloader.dataset.metainfo = dict(classes=('ball', 'kite'))
    found = check(cfg)
    assert [one.code for one in found.values()] == ['classes']
    assert found['classes'].cases == ('crate',) and not found['classes'].is_error
