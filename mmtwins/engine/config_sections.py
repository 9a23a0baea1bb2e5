"""The sections of a config: their names, their forms, which belong together, and numbers that fail late or silently."""

import importlib.util
import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

# What MMEngine's Runner and our tools read at the top of a config. Anything else there is a variable of its author.
SECTIONS = (
    'model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper',
    'param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks', 'custom_hooks', 'custom_imports', 'load_from',
    'resume', 'env_cfg', 'log_processor', 'log_level', 'visualizer', 'default_scope', 'randomness', 'auto_scale_lr',
    'launcher', 'work_dir', 'data_preprocessor', 'tta_model', 'tta_pipeline', 'runner_type', 'check_data',
)  # fmt: skip
DICTS = ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg',
         'optim_wrapper', 'default_hooks', 'env_cfg', 'log_processor', 'visualizer', 'randomness', 'auto_scale_lr')  # fmt: skip
LISTS = ('custom_hooks',)
TOGETHER = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)
SCHEDULE_TEXTS = ('type', 'param_name', 'monitor', 'rule', 'threshold_rule', 'anneal_strategy', '_scope_')


def type_of(part: Mapping[str, Any]) -> str:
    """The name of the class that a part of a config builds, without its scope or module; empty if it names none."""
    kind = part.get('type', '')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))).rpartition('.')[2]


def _is_package(scope: Any) -> bool:
    if scope in ('mmseg', 'mmdet', 'mmpretrain'):  # where they are missing, the advice is to install them
        return True
    return isinstance(scope, str) and scope.isidentifier() and importlib.util.find_spec(scope) is not None


def check_sections(cfg: Config, path: str) -> None:
    """Check the names and forms of what stands at the top of a config.

    Args:
        cfg: The config.
        path: Its file.

    Raises:
        ValueError: A section is no dict or list, or has a name that is nearly one of MMEngine's.
    """
    names = set(cfg.keys())
    for name in sorted(names - set(SECTIONS)):
        absent = [one for one in SECTIONS if one not in names and not one.startswith('tta')]
        close = get_close_matches(name, absent, 1, 0.88)
        if close:
            raise ValueError(f'{path}: {name} is not read by anything: do you mean {close[0]}?')
    for kinds, wanted, example in ((DICTS, dict, 'dict(...)'), (LISTS, (list, tuple), '[dict(...)]')):
        for name in kinds:
            value = cfg.get(name)
            if value is not None and not isinstance(value, wanted):
                raise ValueError(f'{path}: {name} is {value!r}: write {name} = {example}')
    _check_numbers(cfg, path)
    scope = cfg.get('default_scope')
    if scope is not None and not _is_package(scope):
        raise ValueError(
            f"{path}: default_scope is {scope!r}, no package that is installed: write 'mmseg', 'mmdet' or 'mmpretrain'"
        )


def _check_numbers(cfg: Config, path: str) -> None:
    """Check what would fail only after hours, or never: schedules that begin late, and a division by zero."""
    schedulers = cfg.get('param_scheduler') or []
    if not isinstance(schedulers, list | tuple | dict):
        raise ValueError(f'{path}: param_scheduler is {schedulers!r}: write a list of dicts')
    for index, one in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        for name, value in one.items() if isinstance(one, Mapping) and 'type' in one else ():
            values = value if isinstance(value, list | tuple) and name == 'milestones' else [value]
            if name not in SCHEDULE_TEXTS and not all(v is None or isinstance(v, int | float) for v in values):
                raise ValueError(f'{path}: param_scheduler[{index}].{name} is {value!r}: write a number')
    for name in ('max_iters', 'max_epochs', 'val_interval'):
        number = (cfg.get('train_cfg') or {}).get(name)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f'{path}: train_cfg.{name} is {number!r}: write a whole number, at least 1')
    model = cfg.get('model') or {}
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    std = preprocessor.get('std') if isinstance(preprocessor, Mapping) else None
    if isinstance(std, list | tuple) and not all(_is_positive(value) for value in std):
        raise ValueError(
            f'{path}: model.data_preprocessor.std is {std!r}: images are divided by it, write positive numbers'
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def check_together(cfg: Config) -> None:
    """Raise ValueError if a config has a part only of what MMEngine's Runner needs, or an optimizer that nobody knows."""
    _check_optimizer(cfg)
    for names in TOGETHER:
        missing = [name for name in names if cfg.get(name) is None]
        if missing and len(missing) < len(names):
            there = [name for name in names if name not in missing]
            raise ValueError(
                f'{cfg.filename}: it has {" and ".join(there)}, but no {" and ".join(missing)}: they belong together, write '
                'all or none'
            )


def _check_optimizer(cfg: Config) -> None:
    """MMEngine would look for a misspelt optimizer in vain when the training begins, and say that None is not callable."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    kind = optimizer.get('type') if isinstance(optimizer, Mapping) else None
    if not isinstance(kind, str):
        return
    with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        if registry.get(kind) is None:
            close = get_close_matches(kind, OPTIMIZERS.module_dict, 1)
            hint = f'do you mean {close[0]}?' if close else 'write AdamW, for example'
            raise ValueError(f'{cfg.filename}: optim_wrapper.optimizer: {kind!r} is no optimizer: {hint}')


def require(cfg: Config, *names: str) -> None:
    """Raise ValueError if a config has not all of these sections."""
    for name in names:
        if not cfg.get(name):
            raise ValueError(
                f'{cfg.filename}: it has no {name}: inherit a recipe of configs/, or write {name} = dict(...)'
            )
