"""What a config reads: data sets out of their wrappers, with the paths, classes and steps that MM sees."""

from pathlib import Path

import pytest
from mmengine.config import Config
from small_data import CLASSES, THINGS

from mmtwins.datasets.data_sources import find_sources, iter_datasets, numbers_of_classes, steps_of
from mmtwins.engine.config import load_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def test_splits_that_read_the_same_are_one(small_data: Path) -> None:
    train, val = find_sources(load_config(str(small_data / 'coco.py')))
    assert (train.splits, val.splits) == (('train',), ('val', 'test'))
    assert train.kind == val.kind == 'coco' and train.classes == THINGS
    assert train.dataset.ann_file == str(small_data / 'coco/annotations/instances_train2017.json')
    assert train.image_folder == str(small_data / 'coco/train2017')
    assert train.uses_masks and val.uses_masks and val.measures_masks
    assert val.evaluator_files == (str(small_data / 'coco') + '/annotations/instances_val2017.json',)
    assert train.name == 'train: train_dataloader.dataset' and val.name == 'val and test: val_dataloader.dataset'
    boxes, _ = find_sources(load_config(str(small_data / 'boxes.py')))
    assert not boxes.uses_masks


def test_label_images(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'ade.py'))
    (train,) = find_sources(cfg, ('train',))
    assert train.kind == 'labels' and train.classes == CLASSES and train.dataset.reduce_zero_label
    assert train.image_folder == str(small_data / 'ade/images/training')
    assert train.steps['CheckLabels'] == dict(type='CheckLabels', num_classes=4)
    assert train.ignore_index == 255
    cfg.model.decode_head.ignore_index = 254
    assert find_sources(cfg, ('train',))[0].ignore_index == 254


def test_wrappers_are_taken_off(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'coco.py'))
    inner = cfg.train_dataloader.dataset
    other = dict(inner, ann_file='annotations/instances_val2017.json')
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset',
        pipeline=[],
        dataset=dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=inner), other]),
    )
    keys = [source.key for source in find_sources(cfg, ('train',))]
    start = 'train_dataloader.dataset.dataset'
    assert keys == [f'{start}.datasets[0].dataset', f'{start}.datasets[1]']


def test_unknown_kinds_and_remote_data_are_left_alone(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'coco.py'))
    cfg.train_dataloader.dataset.type = 'LVISV1Dataset'  # reads its file with another library
    cfg.val_dataloader.dataset.backend_args = dict(backend='petrel')
    assert [(source.kind, source.type_name) for source in find_sources(cfg, ('train', 'val'))] == [
        ('', 'LVISV1Dataset'),
        ('', 'CocoDataset'),
    ]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'train_dataloader.dataset': 5},
            r'train_dataloader has no dataset: write train_dataloader = dict',
        ),
        (
            {'train_dataloader.dataset.type': 'CoccoDataset'},
            r"dataset\.type is 'CoccoDataset', which mmdet does",
        ),
        ({'train_dataloader.dataset.type': None}, r'dataset\.type is None: name a class'),
        (
            {'train_dataloader.dataset.anno': 5},
            r"dataset cannot be built: .*unexpected keyword argument 'anno'",
        ),
        (
            {'train_dataloader.dataset.metainfo': 5},
            r'dataset cannot be built: metainfo should be a Mapping',
        ),
        (
            {'train_dataloader.dataset.metainfo.classes': 'ball'},
            r"metainfo\.classes is the text 'ball': write \('ball'",
        ),
        ({'train_dataloader.dataset.dataset': 5}, r'dataset\.dataset is 5: it must be a dict'),
        (
            {'train_dataloader.dataset.datasets': []},
            r'dataset\.datasets is \[\]: it must be a list of data sets',
        ),
    ],
)
def test_what_is_no_data_set_is_named(options: dict, message: str, small_data: Path) -> None:
    cfg = load_config(str(small_data / 'coco.py'), options)
    with pytest.raises(ValueError, match=r'coco\.py: train_dataloader.*' + message.removeprefix('train_dataloader')):
        find_sources(cfg, ('train',))


def test_a_config_without_data() -> None:
    with pytest.raises(ValueError, match='the config: there is no data set for train, val: add train_dataloader'):
        find_sources(Config(dict(val_dataloader=None)), ('train', 'val'))


def test_numbers_of_classes() -> None:
    model = dict(
        rpn_head=dict(num_classes=1),
        bbox_head=[dict(num_classes=3), dict(num_classes=4)],
        roi_head=dict(bbox_head=dict(num_classes=5), mask_head=dict(num_classes=6, class_agnostic=True)),
        decode_head=dict(num_classes=True),
    )
    assert numbers_of_classes(Config(dict(model=model))) == {
        'model.bbox_head[0]': 3,
        'model.bbox_head[1]': 4,
        'model.roi_head.bbox_head': 5,
    }
    assert numbers_of_classes(Config(dict(model=7))) == {}


def test_steps_inside_other_steps() -> None:
    pipeline = [dict(type='A', x=1), dict(type='mmdet.B', transforms=[[dict(type=int)], [dict(type='A', x=2)]]), None]
    assert list(steps_of(pipeline)) == ['A', 'B', 'int'] and steps_of(pipeline)['A']['x'] == 2
    assert list(iter_datasets(dict(type='A'), 'key')) == [('key', dict(type='A'))]
