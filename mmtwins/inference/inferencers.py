"""MMSegmentation's and MMDetection's inferencers, built from configs and any public Twins checkpoint."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from ..analysis.attention_maps import find_backbone
from ..datasets.dataset_info import DatasetInfo
from ..engine.checks import check_device
from ..engine.config import load_config
from ..engine.console import only_errors
from ..weights.applying import load_weights
from ..weights.loading import load_safely, naming_checkpoint


def prepare_config(cfg: Config, path: str | Path) -> str:
    """Make a config fit for :func:`build_inferencer`, in place.

    Args:
        cfg: Config, as ``load_config`` returns it.
        path: Its file, for messages.

    Returns:
        Its library, ``'mmseg'`` or ``'mmdet'``.

    Raises:
        ValueError: It is of another library, or lacks a model or how images are prepared.
    """
    library = cfg.get('default_scope')
    if library == 'mmpretrain':
        raise ValueError(
            f'{path} is a classifier, which `mmtwins predict` and `mmtwins test` take: this needs a segmentor or a detector'
        )
    if library not in ('mmseg', 'mmdet'):
        raise ValueError(f'{path}: default_scope is {library!r}, predictions need mmseg or mmdet')
    if 'model' not in cfg or 'dataset' not in (cfg.get('test_dataloader') or {}):
        raise ValueError(f'{path} lacks model or test_dataloader, whose dataset says how images are prepared')
    cfg.model = cfg.model.get('module', cfg.model)  # inside a test-time augmentation wrapper
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    # The inferencers look for LoadImageFromFile by that name alone, and only MMSegmentation's drops annotations.
    steps = [dict(step) for step in dataset.get('pipeline') or [] if not _is_about_annotations(_type_of(step))]
    loaders = [step for step in steps if _type_of(step) == 'LoadImageFromFile']
    if len(loaders) != 1:
        raise ValueError(f'{path}: the pipeline of test_dataloader.dataset must have one LoadImageFromFile')
    loaders[0]['type'] = 'LoadImageFromFile'
    _name_damaged_files(loaders[0])
    dataset['pipeline'] = steps
    cfg.test_dataloader.dataset = dataset
    # The config's own visualizer may report to a server.
    cfg.visualizer = dict(type='SegLocalVisualizer' if library == 'mmseg' else 'DetLocalVisualizer')
    return library


def _name_damaged_files(loader: dict) -> None:
    """Let a loader of images read through the backend ``checked``, as those of the recipes do."""
    given = loader.get('backend_args')
    if loader.get('file_client_args') is None and (given or {}).get('backend') != 'checked':
        decoder = 'pillow' if loader.get('imdecode_backend') == 'pillow' else 'cv2'
        loader['backend_args'] = dict(backend='checked', decoder=decoder, backend_args=given)


def _type_of(step: dict) -> str:
    """Name of a transform, without its scope or module."""
    kind = step['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def _is_about_annotations(kind: str) -> bool:
    return kind == 'CheckLabels' or (kind.startswith('Load') and 'Annotation' in kind)


def build_inferencer(cfg: Config, device: str, info: DatasetInfo | None = None) -> Any:
    """Build MMSegmentation's or MMDetection's inferencer, with a model that has no weights yet.

    Args:
        cfg: Config, after :func:`prepare_config`.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        info: Classes and colours, for the inferencer's own pictures; None takes the library's defaults.

    Returns:
        ``MMSegInferencer`` or ``DetInferencer``.
    """
    options: dict[str, Any] = {} if info is None else dict(palette=info.palette)
    with _quiet():
        if cfg.default_scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            inferencer = MMSegInferencer(cfg, classes=info and info.classes, device=device, **options)
        else:
            from mmdet.apis import DetInferencer

            inferencer = DetInferencer(cfg, device=device, **options)
    inferencer.show_progress = False
    return inferencer


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about missing weights, which are loaded next, and about collate functions in MMEngine's registry."""
    with only_errors(MMLogger.get_current_instance()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def load_inferencer(
    config: str | Path, checkpoint: str | Path, device: str | None = None, cfg_options: dict | None = None
) -> Any:
    """Build the inferencer of MMSegmentation or MMDetection for a config, with the weights of a checkpoint.

    Args:
        config: Config file; its ``default_scope`` decides which library.
        checkpoint: Of that config, or any public Twins checkpoint: the heads do not matter here.
        device: Such as ``'cpu'`` or ``'cuda'``; None takes a GPU if there is one.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.

    Returns:
        ``MMSegInferencer`` or ``DetInferencer``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The library is not installed.
        ValueError: The device is not there, the config has no Twins backbone, or the checkpoint does not fit.
    """
    cfg = load_config(str(config), cfg_options)
    prepare_config(cfg, config)
    content = load_safely(str(checkpoint))
    inferencer = build_inferencer(cfg, check_device(device))
    backbone = find_backbone(inferencer.model)
    with naming_checkpoint(checkpoint):
        load_weights(backbone, content, for_predictions=False)
    return inferencer
