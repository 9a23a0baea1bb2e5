"""Load a data set as a training does and put its most unusual samples through the pipeline, in a separate process."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope

from .findings import Findings
from .isolation import run_isolated

SMALLEST = 32  # pixels that each side of a Twins backbone's input needs at least
SECONDS = 600.0


def try_pipeline(cfg: Config, split: str, favourites: Sequence[str], findings: Findings) -> None:
    """Load a split's data set, including its wrappers, and a batch of samples; a failure becomes a finding.

    Args:
        cfg: The whole config.
        split: ``'train'``, ``'val'`` or ``'test'``.
        favourites: Paths of images to try, such as the smallest and the largest; the first and the last are always tried.
        findings: Gets the failure.
    """
    for registry in (DATASETS, TRANSFORMS, MODELS):  # import here, so that the child need not do it again
        with registry.switch_scope_and_registry(cfg.get('default_scope')) as inner:
            inner.import_from_location()
    outcome = run_isolated(lambda names: _load(cfg, split, names), tuple(favourites), SECONDS)
    where, failure = outcome.value or (f'{split}_dataloader', outcome.failure)
    if failure:
        text = f'loading a sample as the {split} split does fails: {failure}'
        findings.add('pipeline', where, text, 'Correct this file, or the pipeline in the config')


def _load(cfg: Config, split: str, favourites: tuple[str, ...]) -> tuple[str, str]:
    """Where and why loading fails; the reason is empty if it does not."""
    scope = cfg.get('default_scope')
    where = f'{split}_dataloader.dataset'
    with DefaultScope.overwrite_default_scope(scope):
        try:
            config: dict[str, Any] = deepcopy(dict(cfg[f'{split}_dataloader']['dataset']))
            dataset = DATASETS.build({'_scope_': scope, **config})
            if not len(dataset):
                return where, 'it is empty'
            samples = []
            for index in _choose(dataset, favourites):
                where = str(dataset.get_data_info(index).get('img_path', where))
                samples.append(dataset[index])
            where = ' and '.join(str(_meta(sample).get('img_path')) for sample in samples[:2])
            return _try_batch(cfg, split, samples, where)
        except Exception as error:
            return where, f'{type(error).__name__}: {error}'


def _choose(dataset: Any, favourites: tuple[str, ...]) -> list[int]:
    """The first, the last and the favourite samples of a data set."""
    chosen = {0, len(dataset) - 1}
    wanted = set(favourites)
    for index in range(len(dataset)):
        if len(chosen) >= len(favourites) + 2 or not wanted:
            break
        path = dataset.get_data_info(index).get('img_path')
        if path in wanted:
            wanted.discard(path)
            chosen.add(index)
    return sorted(chosen)


def _try_batch(cfg: Config, split: str, samples: list, where: str) -> tuple[str, str]:
    """Put samples into batches, as the config's batch size requires."""
    preprocessor = cfg.model.get('data_preprocessor') if isinstance(cfg.get('model'), Mapping) else None
    if not preprocessor:
        return where, ''
    preprocess = MODELS.build({'_scope_': cfg.get('default_scope'), **preprocessor})
    size = cfg[f'{split}_dataloader'].get('batch_size') or 1
    groups = [samples] if size > 1 else [[sample] for sample in samples]
    for group in groups:
        where = str(_meta(group[0]).get('img_path', where))
        inputs = preprocess(pseudo_collate(group), training=split == 'train')['inputs']
        sides = inputs.shape[-2:] if hasattr(inputs, 'shape') else ()
        if sides and min(sides) < SMALLEST and 'Twins' in str(cfg.model.get('backbone', {}).get('type')):
            return where, f'the model gets {sides[1]} x {sides[0]} pixels, and needs {SMALLEST} on each side'
    return '', ''


def _meta(sample: Any) -> Mapping:
    """The meta information of a sample, if it has any."""
    data = sample.get('data_samples') if isinstance(sample, Mapping) else None
    data = data[0] if isinstance(data, list | tuple) and data else data
    return getattr(data, 'metainfo', {})
