"""Detectors on COCO files: output i is the class with the i-th name, whatever the order of categories in the files.

MMDetection 3.3 numbers classes in the order of the annotation file, and names them in the order of the config.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import BaseLoop, Runner

from ..datasets.category_ids import category_ids
from ..datasets.dataset_info import metainfo_of
from .loops import ResumableLoop


def match_by_name() -> None:
    """Let MMDetection's ``CocoDataset`` and ``CocoMetric`` match classes and categories by name, in this process.

    Subclasses that read files or compute metrics in a way of their own, such as those of LVIS, Objects365 and panoptic data,
    are not changed.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.evaluation import CocoMetric

    if not hasattr(CocoDataset.load_data_list, '__wrapped__'):
        CocoDataset.load_data_list = _loading_by_name(CocoDataset.load_data_list)
        CocoMetric.compute_metrics = _measuring_by_name(CocoMetric.compute_metrics)


def _loading_by_name(load_data_list: Any) -> Any:
    @functools.wraps(load_data_list)
    def load(self: Any) -> list[dict]:
        read_file = self.COCOAPI
        if not _is_plain(self):
            return load_data_list(self)

        def read(path: str) -> Any:
            coco = read_file(path)
            in_file_order = coco.get_cat_ids

            def get_cat_ids(cat_names: Any) -> list[int]:
                if not isinstance(cat_names, list | tuple):
                    return in_file_order(cat_names=cat_names)
                ids = category_ids(coco.dataset.get('categories', ()), cat_names, self.ann_file)
                if ids != in_file_order(cat_names=cat_names):
                    text = (
                        'its categories are in another order than the classes of the config; they are matched by name'
                    )
                    print_log(f'{self.ann_file}: {text}', logger='current')
                return ids

            coco.get_cat_ids = get_cat_ids
            return coco

        self.COCOAPI = read
        try:
            return load_data_list(self)
        finally:
            del self.COCOAPI

    return load


def _measuring_by_name(compute_metrics: Any) -> Any:
    @functools.wraps(compute_metrics)
    def compute(self: Any, results: list) -> dict[str, float]:
        ids = None
        with suppress(ValueError):  # in other data sets, classes and categories may have different names
            ids = metric_ids(self)
        if ids is None:
            return compute_metrics(self, results)
        self.cat_ids = sorted(ids)  # COCOeval sorts its results by category id in any case
        places = np.searchsorted(self.cat_ids, ids)
        placed = [(truth, {**found, 'labels': places[found['labels']]}) for truth, found in results]
        return compute_metrics(self, placed)

    return compute


def metric_ids(metric: Any) -> list[int] | None:
    """Find the category of each class in the annotation file of a ``CocoMetric``.

    Args:
        metric: The metric.

    Returns:
        Category id of each class, in the order of the classes; None if the metric reads no file or knows no classes.

    Raises:
        ValueError: See :func:`mmtwins.datasets.category_ids.category_ids`.
    """
    coco, classes = getattr(metric, '_coco_api', None), (metric.dataset_meta or {}).get('classes')
    if coco is None or not isinstance(classes, list | tuple):
        return None
    return category_ids(coco.dataset.get('categories', ()), classes, "the metric's annotation file")


@HOOKS.register_module()
class MatchClassesHook(Hook):
    """Match the classes of a detector with the categories of COCO files by name, see :func:`match_by_name`.

    The outputs of a model keep their meaning: the data sets of a training take the order of classes in the checkpoint that it
    starts from, if it has the same classes. Validation and test take the order of the training or, without a training, of the
    checkpoint.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._noted: tuple[str, ...] = ()
        self._said: set[str] = set()
        scope = DefaultScope.get_current_instance()
        if 'mmdet' in sys.modules or (scope is not None and scope.scope_name == 'mmdet'):
            match_by_name()  # before the Runner builds data sets

    def before_run(self, runner: Runner) -> None:
        """Give all data sets the same order of classes; raises ValueError if names of classes and categories differ."""
        self._match(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Give all data sets the checkpoint's order of classes; raises ValueError if names of classes and categories differ."""
        self._noted = _classes(metainfo_of(checkpoint))
        self._match(runner)

    def _match(self, runner: Runner) -> None:
        if 'mmdet' not in sys.modules:
            return
        reference, source = self._noted, 'the checkpoint'
        for split in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{split}_loop', None)
            if not isinstance(loop, BaseLoop):
                continue
            whole: Any = loop.dataloader.dataset
            for dataset, wrappers in _coco_sets(whole):
                given = _classes(dataset.metainfo)
                if reference != given and sorted(reference) == sorted(given):
                    reorder(dataset, reference, wrappers)
                    _restart_workers(loop)
                    runner.visualizer.dataset_meta = whole.metainfo
                    self._say(runner, f'{split}: the classes take the order of {source}: {", ".join(reference)}')
                elif reference != given and (source != 'the checkpoint' or split != 'train' or runner._resume):
                    self._compare(runner, reference, source, given, split)  # else heads are trained anew
                if split == 'train' or not reference:
                    reference, source = _classes(dataset.metainfo), f'the {split} data'
            if split != 'train' and any(_coco_sets(whole)):
                loop.evaluator.dataset_meta = whole.metainfo
                for metric in loop.evaluator.metrics:
                    if hasattr(type(metric).compute_metrics, '__wrapped__'):
                        metric_ids(metric)  # find out now, not after an epoch

    def _compare(
        self, runner: Runner, reference: tuple[str, ...], source: str, given: tuple[str, ...], split: str
    ) -> None:
        """Refuse a class that has another number than in the reference; warn of other names."""
        if not reference:
            return
        moved = [name for name in given if name in reference and reference.index(name) != given.index(name)]
        if moved:
            raise ValueError(
                f'{split}_dataloader: class {given.index(moved[0])} is {moved[0]!r}, which is class '
                f'{reference.index(moved[0])} in {source}, and the names of other classes differ: '
                f"write metainfo['classes'] = {reference!r} for the data set"
            )
        others = [(one, other) for one, other in zip(given, reference) if one != other]
        names = ', '.join(f'{one!r} instead of {other!r}' for one, other in others[:5])
        text = f'{split}: {len(others)} classes have other names than in {source}, and are compared by their number'
        self._say(runner, f'{text}: {names}' if others else f'{split}: other classes than in {source}')

    def _say(self, runner: Runner, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            runner.logger.warning(text)


def _restart_workers(loop: Any) -> None:
    """Drop workers that have begun to load, because they hold the data set as it was."""
    loop.dataloader._iterator = None  # of persistent workers
    if isinstance(loop, ResumableLoop) and loop.batches is not None:
        loop.dataloader_iterator = None  # it begins anew when it runs
    elif hasattr(loop, 'dataloader_iterator'):
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)


def reorder(dataset: Any, classes: Sequence[str], wrappers: Sequence[Any] = ()) -> None:
    """Give the classes of a loaded ``CocoDataset`` another order, in place.

    Args:
        dataset: The data set.
        classes: Its classes in the new order.
        wrappers: Data sets around it, whose meta information names the classes too.
    """
    old = _classes(dataset.metainfo)
    places = [old.index(name) for name in classes]
    labels = {place: label for label, place in enumerate(places)}
    dataset.cat_ids = [dataset.cat_ids[place] for place in places]
    dataset.cat2label = {category: label for label, category in enumerate(dataset.cat_ids)}
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for info in infos:
        for instance in info['instances']:
            instance['bbox_label'] = labels[instance['bbox_label']]
    dataset.data_list = infos
    if dataset.serialize_data:
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()
    dataset._metainfo = _in_order(dataset._metainfo, classes)
    for wrapper in wrappers:
        known = wrapper._metainfo
        if isinstance(known, list):  # of a ConcatDataset whose parts differed
            known = [_in_order(one, classes) for one in known]
            known = known[0] if all(one['classes'] == known[0]['classes'] for one in known) else known
        wrapper._metainfo = known if isinstance(known, list) else _in_order(known, classes)


def _in_order(metainfo: dict, classes: Sequence[str]) -> dict:
    """The meta information of a data set with its classes, and their colours, in another order."""
    old, palette = _classes(metainfo), metainfo.get('palette')
    if sorted(old) != sorted(classes):
        return metainfo
    places = [old.index(name) for name in classes]
    if isinstance(palette, list | tuple) and len(palette) >= len(places):
        metainfo = {**metainfo, 'palette': [palette[place] for place in places]}
    return {**metainfo, 'classes': tuple(classes)}


def _coco_sets(dataset: Any, wrappers: tuple = ()) -> Iterator[tuple[Any, tuple]]:
    """The data sets that :func:`match_by_name` changes, each with its wrappers."""
    for inner in [*getattr(dataset, 'datasets', ()), *([dataset.dataset] if hasattr(dataset, 'dataset') else [])]:
        yield from _coco_sets(inner, (*wrappers, dataset))
    # With return_classes, as for text-image detectors, a data set passes the names of its classes to the model.
    if _is_plain(dataset) and not dataset.return_classes and _classes(dataset.metainfo):
        yield dataset, wrappers


def _is_plain(dataset: Any) -> bool:
    """Whether a data set reads its file as ``CocoDataset`` does."""
    from mmdet.datasets import CocoDataset

    kind = type(dataset)
    is_same = getattr(kind, 'load_data_list', None) is CocoDataset.load_data_list
    return is_same and kind.COCOAPI is CocoDataset.COCOAPI


def _classes(metainfo: dict) -> tuple[str, ...]:
    found = metainfo.get('classes')
    return tuple(found) if isinstance(found, list | tuple) else ()
