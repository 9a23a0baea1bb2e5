"""Detectors on COCO files whose categories have another order than the classes: equal numbers, the file's ids."""

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.runner import Runner
from toys import DETECTOR, save_toy_checkpoint

from mmtwins.engine.class_order import match_by_name, metric_ids, reorder
from mmtwins.engine.config import load_config
from mmtwins.engine.runner import build_runner
from mmtwins.weights.opening import read_file

CallTool = Callable[..., subprocess.CompletedProcess]
pytest.importorskip('mmdet')
CLASSES = ('ball', 'kite', 'starfish', 'crate', 'buoy', 'windmill')
ORDER = (3, 5, 0, 1, 4, 2)
PERMUTED = tuple(CLASSES[place] for place in ORDER)


def copy_data(source: Path, root: Path, **changes: Callable[[dict], object]) -> Path:
    """The toy data with changed annotation files of ``train`` and ``val``."""
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        os.symlink(source / 'coco' / f'{split}2017', root / f'{split}2017')
        name = f'annotations/instances_{split}2017.json'
        content = json.loads((source / 'coco' / name).read_text())
        changes.get(split, lambda content: None)(content)
        (root / name).write_text(json.dumps(content))
    return root


def shuffle(order: tuple[int, ...]) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content['categories'] = [content['categories'][place] for place in order]

    return change


@pytest.fixture(scope='module')
def shuffled(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy data, with categories in one order for training and in another for validation."""
    root = tmp_path_factory.mktemp('shuffled') / 'coco'
    return copy_data(toy_data, root, train=shuffle(ORDER), val=shuffle(ORDER[::-1]))


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A detector with the classes in the toy's order, and the same detector with outputs in another order."""
    folder = tmp_path_factory.mktemp('detectors')
    meta = dict(dataset_meta=dict(classes=CLASSES))
    plain = save_toy_checkpoint('mmdet', folder / 'plain.pth', meta)
    content = torch.load(plain)
    for name in ('weight', 'bias'):
        key = f'roi_head.bbox_head.fc_cls.{name}'
        content['state_dict'][key] = content['state_dict'][key][[*ORDER, len(CLASSES)]]
    content['meta'] = dict(dataset_meta=dict(classes=PERMUTED))
    torch.save(content, folder / 'permuted.pth')
    return plain, folder / 'permuted.pth'


def make_config(root: Path, work_dir: Path, **options: object) -> Config:
    """Two iterations and a validation of the toy detector, whose results go to ``work_dir/found.bbox.json``."""
    cfg = load_config(
        str(DETECTOR),
        {
            'data_root': str(root),
            'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2),
            'train_dataloader.batch_size': 2,
            'randomness': dict(seed=1),
            **options,
        },
    )
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.update(classwise=True, outfile_prefix=str(work_dir / 'found'))
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    return cfg


def set_classes(cfg: Config, *splits: str) -> Config:
    for split in splits:
        cfg[f'{split}_dataloader'].dataset.metainfo.classes = PERMUTED
    return cfg


def run(cfg: Config, build: Callable = build_runner, only_test: bool = False) -> tuple[list[float], dict, list]:
    """Losses, metrics and results of a run; NaN, of classes without an object, is written as None."""
    with patch('mmengine.runner.runner.collect_env', dict):  # compilers and the like, for the log
        runner = build(cfg)
    if only_test:
        metrics = runner.test()
    else:
        runner.train()
    history = runner.message_hub.log_scalars
    losses = [] if only_test else history['train/loss'].data[0].tolist()
    if not only_test:
        metrics = {name[4:]: scalar.current() for name, scalar in history.items() if name.startswith('val/coco')}
    metrics = {name: None if np.isnan(value) else float(value) for name, value in metrics.items()}
    found = json.loads((Path(cfg.work_dir) / 'found.bbox.json').read_text())
    return (
        losses,
        metrics,
        sorted(found, key=lambda one: (one['image_id'], -one['score'], one['bbox'], one['category_id'])),
    )


@pytest.fixture(scope='module')
def expected(toy_data: Path, checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """Of the toy data as they are."""
    cfg = make_config(toy_data / 'coco', tmp_path_factory.mktemp('expected'), load_from=str(checkpoints[0]))
    losses, metrics, found = run(cfg)
    assert len(losses) == 2 and len({one['category_id'] for one in found}) == 6
    assert {f'coco/{name}_precision' for name in CLASSES} < metrics.keys()
    return losses, metrics, found


@pytest.mark.parametrize('build', [build_runner, pytest.param(Runner.from_cfg, marks=pytest.mark.slow)])
def test_the_order_of_categories_does_not_matter(
    build: Callable, shuffled: Path, checkpoints: tuple[Path, Path], expected: tuple, tmp_path: Path
) -> None:
    """Also with MMEngine's Runner alone, for a config with our hooks."""
    assert run(make_config(shuffled, tmp_path, load_from=str(checkpoints[0])), build) == expected
    logs = ''.join(path.read_text() for path in tmp_path.rglob('*.log'))
    assert logs.count('its categories are in another order than the classes of the config; they are matched') == 2


WORKERS = {
    f'{split}_dataloader.{key}': 1 for split in ('train', 'val') for key in ('num_workers', 'persistent_workers')
}


@pytest.mark.parametrize(('splits', 'options'), [
    (('train', 'val'), WORKERS),
    *(pytest.param(splits, {}, marks=pytest.mark.slow) for splits in (('val',), ('train', 'val'))),
])  # fmt: skip
def test_the_order_of_classes_is_that_of_the_checkpoint(
    splits: tuple[str, ...],
    options: dict,
    toy_data: Path,
    checkpoints: tuple[Path, Path],
    expected: tuple,
    tmp_path: Path,
) -> None:
    """Whichever data sets of the config have it, and also where training and validation differ."""
    for name, checkpoint, order in zip(('plain', 'permuted'), checkpoints, (CLASSES, PERMUTED)):
        if options and checkpoint == checkpoints[1]:
            continue  # the config has its order
        cfg = make_config(toy_data / 'coco', tmp_path / name, load_from=str(checkpoint), **options)
        losses, metrics, found = run(set_classes(cfg, *splits))
        assert metrics == pytest.approx(expected[1], abs=1e-3)
        assert losses == pytest.approx(expected[0], rel=1e-5)
        assert [one['category_id'] for one in found] == [one['category_id'] for one in expected[2]]
        meta = read_file(tmp_path / name / 'iter_2.pth')['meta']
        assert meta['dataset_meta']['classes'] == order


def test_a_checkpoint_is_tested_in_its_own_order(
    toy_data: Path, shuffled: Path, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    def test(root: Path, index: int, name: str) -> tuple:
        cfg = make_config(root, tmp_path / name, load_from=str(checkpoints[index]))
        return run(cfg, only_test=True)[1:]

    plain = test(toy_data / 'coco', 0, 'plain')
    assert len(plain[1]) > 20
    for number, root in enumerate((toy_data / 'coco', shuffled)):
        metrics, found = test(root, 1, f'permuted{number}')
        assert metrics == pytest.approx(plain[0], abs=1e-3)
        assert [one['category_id'] for one in found] == [one['category_id'] for one in plain[1]]


@pytest.mark.slow
def test_a_resumed_training_keeps_its_order(
    toy_data: Path, shuffled: Path, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    options = dict(load_from=str(checkpoints[0]))
    losses = {}
    for name, splits, root in (('same', (), toy_data / 'coco'), ('other', ('train', 'val'), shuffled)):
        cfg = make_config(toy_data / 'coco', tmp_path / name, **options)
        run(cfg)
        cfg = set_classes(make_config(root, tmp_path / name, resume=True), *splits)
        cfg.train_cfg.update(max_iters=4, val_interval=4)
        losses[name] = run(cfg)
    assert losses['same'] == losses['other'] and len(losses['same'][0]) >= 2


def test_predictions_have_the_categories_of_the_file(
    toy_data: Path,
    shuffled: Path,
    checkpoints: tuple[Path, Path],
    call_tool: CallTool,
    tmp_path: Path,
) -> None:
    found = []
    for number, (root, checkpoint) in enumerate(zip((toy_data / 'coco', shuffled), checkpoints)):
        out = tmp_path / str(number)
        options = ['--score-thr', '0', '--cfg-options', f'data_root={root}']
        done = call_tool('infer.py', DETECTOR, checkpoint, root / 'val2017', '--out', out, *options)
        assert done.returncode == 0, done.stderr
        results = json.loads((out / 'coco_results.json').read_text())
        found.append([(one['image_id'], one['category_id'], pytest.approx(one['score'], abs=1e-5)) for one in results])
        names = {one['id']: one['name'] for one in json.loads((out / 'coco_images.json').read_text())['categories']}
        assert names == {number + 1: name for number, name in enumerate(CLASSES)}
    assert len(found[0]) > 20 and found[0] == found[1]


def build_sets(root: Path, *configs: dict) -> list:
    """Data sets of the toy detector as the Runner builds them, with changes."""
    match_by_name()
    cfg = load_config(str(DETECTOR), dict(data_root=str(root)))
    with DefaultScope.overwrite_default_scope('mmdet'):
        return [
            DATASETS.build({**copy.deepcopy(cfg.train_dataloader.dataset), 'pipeline': [], **one}) for one in configs
        ]


def named_boxes(dataset: object) -> list[list[tuple]]:
    """The boxes of each image with the names of their classes."""
    names = dataset.metainfo['classes']
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [[(names[one['bbox_label']], *one['bbox']) for one in info['instances']] for info in infos]


def test_each_box_has_the_name_that_the_file_gives_it(shuffled: Path) -> None:
    palette = [(i, i, i) for i in range(6)]
    configs = [
        dict(metainfo=dict(classes=classes, palette=palette), serialize_data=serialized)
        for classes in (CLASSES, PERMUTED, PERMUTED[:3])
        for serialized in (True, False)
    ]
    sets = build_sets(shuffled, *configs)
    content = json.loads((shuffled / 'annotations/instances_train2017.json').read_text())
    names = {one['id']: one['name'] for one in content['categories']}
    for dataset in sets:
        expected = [
            (names[one['category_id']], *one['bbox'][:2])
            for one in content['annotations']
            if names[one['category_id']] in dataset.metainfo['classes']
        ]
        assert sorted(box[:3] for boxes in named_boxes(dataset) for box in boxes) == sorted(expected)
    before = named_boxes(sets[1])
    for dataset in sets[:2]:
        reorder(dataset, PERMUTED)
        assert named_boxes(dataset) == before and dataset.metainfo['classes'] == PERMUTED
        assert dataset.metainfo['palette'] == [palette[place] for place in ORDER]
        assert dataset.cat_ids == sets[2].cat_ids and dataset.cat2label == sets[2].cat2label
        assert [dataset[i] for i in range(len(dataset))] == [
            {**sets[2][i], 'sample_idx': i} for i in range(len(dataset))
        ]


def test_the_parts_of_one_training_get_one_order(
    toy_data: Path, shuffled: Path, checkpoints: tuple[Path, Path], expected: tuple, tmp_path: Path
) -> None:
    """mmdet's ConcatDataset takes parts whose classes have different orders, and mixes their labels."""
    cfg = make_config(toy_data / 'coco', tmp_path, load_from=str(checkpoints[0]))
    one, other = cfg.train_dataloader.dataset, copy.deepcopy(cfg.train_dataloader.dataset)
    other.update(data_root=str(shuffled), metainfo=dict(classes=PERMUTED))
    parts = dict(type='mmdet.ConcatDataset', datasets=[one, dict(type='RepeatDataset', dataset=other, times=2)])
    cfg.train_dataloader.dataset = parts
    runner = build_runner(cfg)
    runner.train()
    first, second = runner.train_dataloader.dataset.datasets
    assert second.metainfo['classes'] == second.dataset.metainfo['classes'] == CLASSES
    assert named_boxes(first) == named_boxes(second.dataset)
    assert runner.train_dataloader.dataset.metainfo['classes'] == CLASSES
    meta = read_file(tmp_path / 'iter_2.pth')['meta']
    assert meta['dataset_meta']['classes'] == CLASSES


def drop(name: str) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content['categories'] = [one for one in content['categories'] if one['name'] != name]

    return change


SPOILT = {
    'missing': (drop('kite'), r"1 of the 6 classes are no categories of the file: 'kite'"),
    'twice': (lambda content: content['categories'].append(dict(id=9, name='ball')), "'ball' is the name of several"),
}


@pytest.mark.parametrize('name', SPOILT)
def test_a_mismatch_is_an_error(
    name: str,
    toy_data: Path,
    checkpoints: tuple[Path, Path],
    call_tool: CallTool,
    tmp_path: Path,
) -> None:
    change, message = SPOILT[name]
    root = copy_data(toy_data, tmp_path / 'data', val=change)
    done = call_tool('test.py', DETECTOR, checkpoints[0], '--work-dir', 'work', '--cfg-options', f'data_root={root}')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert f'{root}/annotations/instances_val2017.json: {message}' in done.stderr.splitlines()[-1]
    done = call_tool('train.py', DETECTOR, '--work-dir', 'work', '--cfg-options', f'data_root={root}')
    assert done.returncode == 1 and 'error: the data cannot be trained on' in done.stderr


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (('kite', 'ball', *CLASSES[2:5], 'rose'), "class 0 is 'ball', which is class 1 in the checkpoint"),
        pytest.param((*CLASSES[:5], 'rose'), '', marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_with_other_classes(
    classes: tuple, message: str, toy_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_toy_checkpoint('mmdet', tmp_path / 'model.pth', dict(dataset_meta=dict(classes=classes)))
    cfg = make_config(toy_data / 'coco', tmp_path / 'work', load_from=str(path))
    if message:
        with pytest.raises(ValueError, match=message):
            run(cfg, only_test=True)
    else:
        run(cfg, only_test=True)
        logs = ''.join(path.read_text() for path in tmp_path.rglob('*.log'))
        text = "test: 1 classes have other names than in the checkpoint, and are compared by their number: 'windmill' instead"
        assert logs.count(text) == 1
    run(make_config(toy_data / 'coco', tmp_path / 'trained', load_from=str(path)))  # fine-tuning takes its weights


def measure(root: Path, classes: tuple[str, ...]) -> dict[str, float]:
    """The metric of predictions that are right for some classes only, each under its name."""
    (dataset,) = build_sets(
        root,
        dict(
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017'),
            metainfo=dict(classes=classes),
            test_mode=True,
        ),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(
            dict(
                type='CocoMetric', ann_file=f'{root}/annotations/instances_val2017.json', metric='bbox', classwise=True
            )
        )
    metric.dataset_meta = dataset.metainfo
    shifts = dict(zip(CLASSES, (0, 2, 4, 6, 8, 50)))  # pixels
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        labels = np.array([one['bbox_label'] for one in info['instances']], np.int64)
        boxes = np.array([one['bbox'] for one in info['instances']], np.float32).reshape(-1, 4)
        boxes += np.array([shifts[classes[label]] for label in labels], np.float32).reshape(-1, 1)
        found = dict(img_id=info['img_id'], labels=labels, bboxes=boxes, scores=np.linspace(1, 0.5, len(labels)))
        metric.results.append((dict(img_id=info['img_id'], width=128, height=128), found))
    return metric.evaluate(len(dataset))


def test_the_metric_of_each_class_stands_beside_its_name(toy_data: Path, shuffled: Path, tmp_path: Path) -> None:
    """COCOeval sorts categories by id, so that MMDetection names them wrongly where a file does not."""
    expected = measure(toy_data / 'coco', CLASSES)
    assert expected['coco/ball_precision'] == 1 and expected['coco/windmill_precision'] < 0.1
    assert len({expected[f'coco/{name}_precision'] for name in CLASSES}) > 3
    assert 0.1 < expected['coco/bbox_mAP'] < 0.9
    assert measure(shuffled, CLASSES) == pytest.approx(expected, nan_ok=True)
    assert measure(shuffled, PERMUTED) == pytest.approx(expected, nan_ok=True)


def test_data_sets_of_other_kinds_stay_as_they_are(toy_data: Path, tmp_path: Path) -> None:
    match_by_name()
    from mmdet.datasets import LVISV05Dataset, LVISV1Dataset, Objects365V1Dataset, VOCDataset
    from mmdet.evaluation import CocoMetric, LVISMetric, OVCocoMetric

    for kind in (Objects365V1Dataset, LVISV05Dataset, LVISV1Dataset, VOCDataset):
        assert not hasattr(kind.load_data_list, '__wrapped__')
    for kind in (LVISMetric, OVCocoMetric):
        assert not hasattr(kind.compute_metrics, '__wrapped__')
    root = copy_data(toy_data, tmp_path / 'data', train=shuffle(ORDER))
    options = dict(
        data_root=str(root), ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017')
    )
    dataset = Objects365V1Dataset(metainfo=dict(classes=PERMUTED), **options)
    assert dataset.cat_ids == [1, 2, 3, 4, 5, 6]  # by id, whatever the names
    metric = CocoMetric(ann_file=f'{root}/annotations/instances_train2017.json')
    metric.dataset_meta = dict(classes=('Person', 'Car'))
    with pytest.raises(ValueError, match='2 of the 2 classes are no categories'):
        metric_ids(metric)
