"""Swap the backbone of one config of every folder of MMSegmentation and MMDetection, and try the result."""

import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import partial, reduce
from importlib import import_module
from operator import getitem
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_installed_path

from ..datasets.isolation import run_isolated
from ..engine.config import load_config
from ..engine.config_names import inheritable
from ..engine.config_sections import type_of
from ..kept_results import keep_result
from .costs import count_macs
from .planning import plan_swap
from .trying import SIDES, Trial, try_model
from .writing import write_config

LIBRARIES = ('mmseg', 'mmdet')
HEAVY = ('mmseg.models', 'mmdet.models', 'mmdet.testing', 'mmseg.datasets', 'mmdet.datasets')
SKIPPED = ('_base_', 'common')  # parts of configs
TRIES = 4  # configs of a folder, until one works
SECONDS = 600  # for one config
COUNTED = {'mmseg': (512, 512), 'mmdet': (800, 1344)}  # of the images to count with, in pixels


def folders(library: str) -> list[str]:
    """The folders of configs that an installed library has."""
    root = _root(library)
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in SKIPPED)


def sweep(results: Path, arch: str = 'svt-s', again: bool = False, kept: bool = False) -> Iterator[dict[str, Any]]:
    """Try one config of every folder; results of earlier calls are kept.

    Args:
        results: Folder for one JSON file per folder of configs.
        arch: As for :func:`mmtwins.swap_backbone`.
        again: Repeat folders that failed.
        kept: Try nothing; only give the results that are there.

    Yields:
        The result of each folder: ``library``, ``folder``, ``config``, ``state`` (``'works'``, ``'refused'``, ``'missing'``
        or ``'failed'``) and what :func:`try_config` returns.
    """
    results.mkdir(parents=True, exist_ok=True)
    for module in () if kept else HEAVY:  # once, for all processes
        import_module(module)
    for library in LIBRARIES:
        for folder in folders(library):
            path = results / f'{library}-{folder}.json'
            found = keep_result(
                path,
                partial(_best, library, folder, arch),
                lambda known: again and known['state'] == 'failed',
                only_kept=kept,
            )
            if found is not None:
                yield found


def try_config(base: str, arch: str) -> dict[str, Any]:
    """Swap the backbone of a config, write it, load it, train it and predict.

    Args:
        base: Name of the config, such as ``'mmdet::dino/NAME.py'``.
        arch: As for :func:`mmtwins.swap_backbone`.

    Returns:
        ``state``. If it does not work, also ``reason``. If it works, the class ``old`` of the replaced backbone, its ``maps``
        and those of the ``new`` one, the fields of :class:`mmtwins.swapping.trying.Trial`, and ``macs``, which may be counted
        ``by_predicting``.
    """
    try:
        cfg = load_config(base)
        plan = plan_swap(cfg, arch)
    except (ImportError, ValueError) as error:
        return _failure(error, 'missing' if isinstance(error, ImportError) else 'refused')
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'swapped.py'
            path.write_text(write_config(plan, inheritable(base), arch))
            swapped = Config.fromfile(path)
        trial = _try_sides(swapped, plan.path)
    except Exception as error:
        return dict(_failure(error, 'failed'), trace=traceback.format_exc().splitlines()[-12:])
    holder: Any = reduce(getitem, plan.path, cfg)
    macs, by_predicting = count_macs(swapped, plan.path, *COUNTED[cfg.default_scope]) or (None, False)
    found = dict(old=type_of(holder['backbone']), maps=plan.old, new=plan.new, **trial._asdict())
    return dict(state='works', **found, macs=macs, by_predicting=by_predicting)


def _failure(error: Exception, state: str) -> dict[str, Any]:
    """State and reason of a config that does not work; a missing package is a state of its own."""
    found = re.search(r'mmpretrain|timm|transformers|skimage|(?<=No module named ).\w+', str(error))
    if found:
        package = found[0].strip("'")
        return dict(state='missing', reason=f'it needs {package}, which was not installed')
    return dict(state=state, reason=str(error)[:600])


def _try_sides(cfg: Config, path: tuple[str, ...]) -> Trial:
    for side in SIDES[:-1]:
        try:
            return try_model(cfg, path, side)
        except Exception:  # some models need larger images
            continue
    return try_model(cfg, path, SIDES[-1])


def _best(library: str, folder: str, arch: str) -> dict[str, Any]:
    """The first config of a folder that works, or the most telling result of the others."""
    order = ('works', 'failed', 'refused', 'missing')
    found: list[dict[str, Any]] = []
    for name in _candidates(library, folder)[:TRIES]:
        base = f'{library}::{folder}/{name}'
        start = time.time()
        result = _in_a_process(base, arch)
        if 'reason' in result:  # without the folder of this machine
            result['reason'] = result['reason'].replace(f'{_root(library)}/', f'{library}::')
        found.append(dict(library=library, folder=folder, config=name, seconds=round(time.time() - start, 1), **result))
        if result['state'] == 'works':
            break
    if not found:
        return dict(library=library, folder=folder, config=None, state='refused', reason='it has no config of a model')
    return min(found, key=lambda result: order.index(result['state']))


def _in_a_process(base: str, arch: str) -> dict[str, Any]:
    """The result of a config, tried in a process of its own with a time limit."""
    found = run_isolated(lambda base: try_config(base, arch), base, SECONDS)
    died = found.failure.startswith('ends the process')
    return found.value or dict(state='failed', reason='the process died' if died else found.failure)


def _candidates(library: str, folder: str) -> list[str]:
    """The configs of a folder, those first that are likely to be typical and small."""
    names = [path.name for path in (_root(library) / folder).glob('*.py')]
    start = folder.replace('_', '-')  # trackers and wrappers have the folder's name, their detectors have not
    return sorted(
        names,
        key=lambda name: (
            'c4' in name,
            'tta' in name,
            '_r50' not in name,
            not name.replace('_', '-').startswith(start),
            len(name),
            name,
        ),
    )


def _root(library: str) -> Path:
    return Path(get_installed_path(library)) / '.mim' / 'configs'
