"""The data sets that a config reads, without their wrappers, with the paths and classes that they will use."""

import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

SPLITS = ('train', 'val', 'test')
HEADS = ('decode_head', 'auxiliary_head', 'bbox_head', 'mask_head', 'roi_head')


@dataclass(frozen=True)
class Source:
    """One data set of a config.

    Attributes:
        splits: The splits that read it, some of ``'train'``, ``'val'`` and ``'test'``.
        key: Its place in the config, such as ``train_dataloader.dataset``.
        kind: ``'coco'``, ``'labels'`` (images with label images), or ``''`` if the checks do not know it.
        type_name: Name of its class.
        dataset: The data set, built without reading anything; None for an unknown kind.
        steps: The dicts of its pipeline by type, nested ones too; if several have the same type, the last.
        ignore_index: The label that losses and metrics ignore.
        evaluator_files: Annotation files that the metrics of its splits read.
        measures_masks: Whether one of these metrics compares masks.
    """

    splits: tuple[str, ...]
    key: str
    kind: str
    type_name: str
    dataset: Any
    steps: dict[str, dict]
    ignore_index: int = 255
    evaluator_files: tuple[str, ...] = ()
    measures_masks: bool = False

    @property
    def name(self) -> str:
        return f'{" and ".join(self.splits)}: {self.key}'

    @property
    def classes(self) -> tuple[str, ...]:
        found = self.dataset.metainfo.get('classes')
        return tuple(found) if isinstance(found, list | tuple) else ()

    @property
    def is_training(self) -> bool:
        return 'train' in self.splits

    @property
    def uses_masks(self) -> bool:
        """Whether masks of a COCO file are read, in loading or by a metric."""
        return bool(self.steps.get('LoadAnnotations', {}).get('with_mask')) or self.measures_masks

    @property
    def image_folder(self) -> str:
        prefix = self.dataset.data_prefix
        return prefix.get('img', prefix.get('img_path')) or ''


def find_sources(cfg: Config, splits: tuple[str, ...] = SPLITS) -> list[Source]:
    """Find the data sets that a config reads.

    Args:
        cfg: The whole config; its library is imported.
        splits: Some of ``'train'``, ``'val'`` and ``'test'``; those without a data loader in the config are left out.

    Returns:
        The data sets; one that several splits read is listed once.

    Raises:
        ValueError: The config has no data set, or one cannot be built.
    """
    try:
        return _find_sources(cfg, splits)
    except ValueError as error:
        raise ValueError(f'{cfg.filename or "the config"}: {error}') from error


def _find_sources(cfg: Config, splits: tuple[str, ...]) -> list[Source]:
    found: dict[str, Source] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        key = f'{split}_dataloader'
        if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), Mapping):
            raise ValueError(f'{key} has no dataset: write {key} = dict(dataset=dict(type=...), ...)')
        for inner_key, config in iter_datasets(loader['dataset'], f'{key}.dataset'):
            same = repr(sorted(dict(config).items(), key=lambda item: str(item[0])))
            source = found.get(same)
            files, masks = _evaluation(cfg, split)
            known = source or _make_source(cfg, split, inner_key, config)
            found[same] = Source(
                tuple(dict.fromkeys((*known.splits, split))),
                known.key,
                known.kind,
                known.type_name,
                known.dataset,
                known.steps,
                known.ignore_index,
                tuple(dict.fromkeys((*known.evaluator_files, *files))),
                known.measures_masks or masks,
            )
    if not found:
        raise ValueError(f'there is no data set for {", ".join(splits)}: add train_dataloader = dict(dataset=...)')
    return list(found.values())


def iter_datasets(dataset: Any, key: str) -> Iterator[tuple[str, Mapping]]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset, each with its place in the config.

    Raises:
        ValueError: A wrapper holds something that is not the config of a data set.
    """
    if not isinstance(dataset, Mapping):
        raise ValueError(f'{key} is {dataset!r}: it must be a dict such as dict(type=..., data_root=...)')
    if 'dataset' in dataset:
        yield from iter_datasets(dataset['dataset'], f'{key}.dataset')
    elif 'datasets' in dataset:
        inner = dataset['datasets']
        if not isinstance(inner, list | tuple) or not inner:
            raise ValueError(f'{key}.datasets is {inner!r}: it must be a list of data sets')
        for index, one in enumerate(inner):
            yield from iter_datasets(one, f'{key}.datasets[{index}]')
    else:
        yield key, dataset


def numbers_of_classes(cfg: Config) -> dict[str, int]:
    """``num_classes`` of the heads by their place in the config; region proposals and class-agnostic masks have none."""
    found: dict[str, int] = {}

    def search(part: Any, key: str) -> None:
        if isinstance(part, list | tuple):
            for index, one in enumerate(part):
                search(one, f'{key}[{index}]')
        elif isinstance(part, Mapping):
            number = part.get('num_classes')
            if isinstance(number, int) and not isinstance(number, bool) and not part.get('class_agnostic'):
                found[key] = number
            for name in HEADS:
                if name in part:
                    search(part[name], f'{key}.{name}')

    search(cfg.get('model'), 'model')
    return found


def steps_of(pipeline: Any) -> dict[str, dict]:
    """The dicts of a pipeline by type, those inside other steps too."""
    found: dict[str, dict] = {}
    if isinstance(pipeline, Mapping):
        kind = pipeline.get('type')
        if kind is not None:
            found[_type_name(kind)] = dict(pipeline)
        pipeline = list(pipeline.values())
    if isinstance(pipeline, list | tuple):
        for one in pipeline:
            found.update(steps_of(one))
    return found


def _make_source(cfg: Config, split: str, key: str, config: Mapping) -> Source:
    """Find the class of a data set and build it without reading anything."""
    kind_name = config.get('type')
    if not kind_name or not (isinstance(kind_name, str) or callable(kind_name)):
        raise ValueError(f'{key}.type is {kind_name!r}: name a class, such as BaseSegDataset or CocoDataset')
    steps = steps_of(config.get('pipeline'))
    scope = config.get('_scope_') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope), DATASETS.switch_scope_and_registry(scope) as registry:
        dataset_class = registry.get(kind_name) if isinstance(kind_name, str) else kind_name
        if dataset_class is None:
            raise ValueError(
                f'{key}.type is {kind_name!r}, which {registry.scope} does not have: correct the name, or '
                'import the module that registers it in custom_imports'
            )
        kind = '' if config.get('backend_args') or '://' in str(config.get('data_root')) else _kind(dataset_class)
        if not kind:
            return Source((split,), key, '', _type_name(kind_name), None, steps)
        metainfo = config.get('metainfo')
        classes = metainfo.get('classes') if isinstance(metainfo, Mapping) else None
        if isinstance(classes, str) and not os.path.isfile(classes):
            raise ValueError(f'{key}.metainfo.classes is the text {classes!r}: write ({classes!r},)')
        try:
            dataset = registry.build({**deepcopy(dict(config)), 'lazy_init': True, 'pipeline': []})
        except Exception as error:  # whatever its constructor makes of wrong values
            reason = str(error) or f'{type(error).__name__} in its constructor'
            raise ValueError(f'{key} cannot be built: {reason}. Correct its values') from error
    return Source((split,), key, kind, _type_name(kind_name), dataset, steps, _ignore_index(cfg))


def _ignore_index(cfg: Config) -> int:
    model = cfg.get('model')
    head = model.get('decode_head') if isinstance(model, Mapping) else None
    head = head[-1] if isinstance(head, list | tuple) and head else head
    found = head.get('ignore_index', 255) if isinstance(head, Mapping) else 255
    return found if isinstance(found, int) else 255


def _kind(dataset_class: Any) -> str:
    """The kind of data that a class reads; empty for classes with their own way of reading, such as LVISV1Dataset."""
    for base in getattr(dataset_class, '__mro__', ()):
        library = base.__module__.partition('.')[0]
        if (library, base.__name__) == ('mmseg', 'BaseSegDataset'):
            return 'labels'
        if (library, base.__name__) == ('mmdet', 'CocoDataset'):
            return 'coco' if dataset_class.load_data_list is base.load_data_list else ''
    return ''


def _evaluation(cfg: Config, split: str) -> tuple[list[str], bool]:
    """The annotation files that a split's metrics read, and whether they compare masks."""
    evaluator = cfg.get(f'{split}_evaluator') or []
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    metrics = [metric for metric in metrics if isinstance(metric, Mapping)]
    files = [metric['ann_file'] for metric in metrics if isinstance(metric.get('ann_file'), str | os.PathLike)]
    return [str(file) for file in files], any('segm' in str(metric.get('metric')) for metric in metrics)


def _type_name(kind: Any) -> str:
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return name.rpartition('.')[2]
