"""Classes and colours: from the checkpoint, else from the config."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn
from toys import SEGMENTOR, save_toy_checkpoint

from mmtwins.demo.scenes import CLASSES, PALETTE, THING_CLASSES
from mmtwins.inference.dataset_info import DatasetInfo, check_classes, dataset_info, metainfo_of


def test_classes_come_from_the_checkpoint_else_from_the_config(segmentor, detector, tmp_path):
    assert segmentor.info.classes == CLASSES and segmentor.info.palette == PALETTE
    assert segmentor.info.reduce_zero_label
    assert detector.info.classes == THING_CLASSES and detector.info.palette == PALETTE[3:]
    from mmtwins.inference.predictor import Predictor

    names = tuple(f'class {i}' for i in range(9))
    noted = save_toy_checkpoint('mmseg', tmp_path / 'old.pth', dict(CLASSES=names, PALETTE=None))
    assert Predictor(SEGMENTOR, noted, 'cpu').info.classes == names


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


def test_classes_without_colours_get_different_ones(named):
    palette = dataset_info(named(classes=('a', 'b', 'c'), palette=[[1, 2, 3]]), {}).palette
    assert len(set(palette)) == 3


def test_no_classes_anywhere_is_said(named):
    with pytest.raises(ValueError, match=r'neither the checkpoint nor the config names the classes: add .*metainfo'):
        dataset_info(named(), {})


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(dataset_meta=dict(CLASSES=('a',))), dict(classes=('a',))),
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
