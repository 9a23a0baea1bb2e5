"""Categories of a file against the classes of a config, by name."""

from collections.abc import Callable

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
}  # fmt: skip


@pytest.mark.parametrize('name', NAMES)
def test_categories_against_classes(name: str, spoil_coco: Spoil) -> None:
    change, code, text = NAMES[name]
    found = check(spoil_coco(change))
    assert found[code].is_error and text in found[code].sentence


def test_another_order_is_no_fault(spoil_coco: Spoil) -> None:
    assert not check(spoil_coco(lambda content: content['categories'].reverse()))


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
