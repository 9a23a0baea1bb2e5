"""Classes and colours: from the checkpoint, else from the config."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DATASETS
from torch import nn

from mmtwins.datasets.dataset_info import (
    DatasetInfo,
    check_classes,
    dataset_info,
    metainfo_of,
    named_classes,
    validations_of,
)


class Named:
    """A data set that names its classes."""

    def __init__(self, metainfo: dict, lazy_init: bool, pipeline: list) -> None:
        assert lazy_init and pipeline == []
        self.metainfo = metainfo


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setitem(DATASETS.module_dict, 'Named', Named)

    def make(**metainfo) -> Config:
        loader = dict(dataset=dict(type='Named', metainfo=metainfo))
        return Config(dict(test_dataloader=loader, default_scope='mmseg'))

    return make


def test_what_a_checkpoint_notes_comes_first(named):
    cfg = named(classes=('a', 'b'), palette=[[1, 2, 3], [4, 5, 6]])
    assert dataset_info(cfg, {}) == DatasetInfo(('a', 'b'), ((1, 2, 3), (4, 5, 6)))
    assert dataset_info(cfg, dict(classes=['x', 'y'])) == DatasetInfo(('x', 'y'), ((1, 2, 3), (4, 5, 6)))
    assert dataset_info(cfg, dict(classes='thing', palette=np.array([[7, 8, 9]]))) == DatasetInfo(
        ('thing',), ((7, 8, 9),)
    )


def test_names_alone_are_those_of_the_whole(named):
    cfg = named(classes=('a', 'b'))
    for noted in ({}, dict(classes=['x', 'y']), dict(classes='thing')):
        assert named_classes(cfg, noted) == dataset_info(cfg, noted).classes
    assert named_classes(Config(dict()), dict(classes=['x'])) == ('x',)


def test_classes_without_colours_get_different_ones(named):
    palette = dataset_info(named(classes=('a', 'b', 'c'), palette=[[1, 2, 3]]), {}).palette
    assert len(set(palette)) == 3


def test_no_classes_anywhere_is_said(named):
    assert named_classes(named(), {}) == named_classes(Config(dict()), {}) == ()
    with pytest.raises(ValueError, match=r'neither the checkpoint nor the config names the classes: add .*metainfo'):
        dataset_info(named(), {})


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(dataset_meta=dict(CLASSES=('a',))), dict(classes=('a',))),
        (dict(dataset_meta=[dict(classes=('a',)), dict(classes=('b',))]), {}),  # of several data sets
        (dict(CLASSES=('a',), PALETTE=None, epoch=3), dict(classes=('a',), palette=None)),
        (None, {}),
        ('text', {}),
    ],
)
def test_notes_of_old_and_new_checkpoints(meta, expected):
    assert metainfo_of(dict(state_dict={}, meta=meta)) == expected


def test_a_model_with_another_number_of_classes_is_refused():
    info = DatasetInfo(('a', 'b'), ())
    model = nn.Module()
    check_classes(model, info)
    model.decode_head = nn.Module()
    model.decode_head.num_classes = 2
    check_classes(model, info)
    cascade = nn.Module()
    cascade.roi_head = nn.Module()
    cascade.roi_head.bbox_head = nn.ModuleList([nn.Module(), nn.Module()])
    cascade.roi_head.bbox_head[-1].num_classes = 9
    with pytest.raises(ValueError, match='the model has 9 classes, but 2 are named'):
        check_classes(cascade, info)


def test_the_last_value_of_each_metric_is_found_in_a_checkpoint():
    hub = dict(log_scalars={'val/mIoU': HistoryBuffer([1.0, 2.5], [1, 1]), 'train/loss': HistoryBuffer([3.0], [1])})
    assert validations_of(dict(message_hub=hub)) == {'mIoU': 2.5}
    for other in (
        {},
        dict(message_hub=None),
        dict(message_hub={}),
        dict(message_hub=dict(log_scalars={'val/mIoU': None})),
    ):
        assert validations_of(other) == {}
