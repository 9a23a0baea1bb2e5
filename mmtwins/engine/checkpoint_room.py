"""How much room the checkpoints of a training will take, and how much there is."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from torch import nn

ADAM = 2.0  # numbers that AdamW keeps for each weight; stands for an optimizer that cannot be tried


@dataclass(frozen=True)
class Room:
    """Room for checkpoints, in bytes.

    Args:
        folder: For checkpoints.
        size: Of one checkpoint, about.
        count: How many will be written and kept, and those in the folder that are kept already not; None if it is not known.
        needed: For all of them, for the best ones and for one more, since old ones go last; None if it is not known.
        free: On the disk.
    """

    folder: Path
    size: int
    count: int | None
    needed: int | None
    free: int


def measure_room(cfg: Config, model: nn.Module, done: int = 0) -> Room | None:
    """Compare what the checkpoints of a training will take with the free disk.

    Args:
        cfg: The whole config, with ``work_dir``.
        model: That of the config; it may be on the meta device.
        done: Iterations, or epochs where the schedule has epochs, that are done already.

    Returns:
        The room; None where nothing is written, or not to a local disk.
    """
    hook = _checkpoint_hook(cfg)
    out_dir = str(hook.get('out_dir') or '') if hook else ''
    if hook is None or '://' in out_dir or hook.get('backend_args') or hook.get('file_client_args'):
        return None
    folder = Path(out_dir, Path(cfg.work_dir).resolve().name) if out_dir else Path(cfg.work_dir)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    size = _size_of_checkpoint(cfg, hook, model, weights)
    count = _count_checkpoints(cfg, hook, done)
    if count is not None and done:
        count = max(count - _count_files(folder, hook), 0) if _number(hook, 'max_keep_ckpts', -1) > 0 else count
    best = hook.get('save_best') or []
    num_best = len(best) if isinstance(best, list | tuple) else 1
    needed = None if count is None else (count + 1) * size + num_best * weights
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.is_dir())
    return Room(folder, size, count, needed, shutil.disk_usage(there).free)


def describe_interval(cfg: Config) -> str | None:
    """How often a checkpoint is written, such as ``every 16,000 iterations``; None where none is."""
    hook = _checkpoint_hook(cfg)
    if hook is None:
        return None
    interval, unit = _number(hook, 'interval', -1), 'epoch' if hook.get('by_epoch', True) else 'iteration'
    if interval < 1 or (unit == 'epoch' and not _has_epochs(cfg)):
        return 'at the end'
    return f'every {interval:,} {unit}s' if interval > 1 else f'every {unit}'


def _checkpoint_hook(cfg: Config) -> Mapping[str, Any] | None:
    """The options of the hook that writes checkpoints; MMEngine adds one where a config does not mention it."""
    hooks = cfg.get('default_hooks') or {}
    if 'checkpoint' not in hooks:
        return dict(interval=1)
    return hooks['checkpoint'] if isinstance(hooks['checkpoint'], Mapping) else None


def _has_epochs(cfg: Config) -> bool:
    return bool((cfg.get('train_cfg') or {}).get('max_epochs'))


def _size_of_checkpoint(cfg: Config, hook: Mapping[str, Any], model: nn.Module, weights: int) -> int:
    """Weights, their moving averages and the state of the optimizer, in bytes."""
    averages = sum(
        'EMAHook' in str(one.get('type')) for one in cfg.get('custom_hooks') or [] if isinstance(one, Mapping)
    )
    trained = sum(value.numel() * value.element_size() for value in model.parameters() if value.requires_grad)
    state = _states_per_weight(cfg) if hook.get('save_optimizer', True) else 0.0
    return weights * (1 + averages) + int(trained * state)


def _states_per_weight(cfg: Config) -> float:
    """How many numbers the optimizer of a config keeps for each weight: tried with a small one."""
    size = 64
    weight = nn.Parameter(torch.zeros(size, size))
    weight.grad = torch.ones(size, size)
    try:
        optimizer = OPTIMIZERS.build({**cfg.optim_wrapper['optimizer'], 'params': [weight]})
        optimizer.step()
    except Exception:  # several optimizers, or one that needs more than gradients
        return ADAM
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() for value in states if isinstance(value, torch.Tensor)) // size**2


def _count_checkpoints(cfg: Config, hook: Mapping[str, Any], done: int) -> int | None:
    """How many checkpoints a training writes from now on and keeps; None if it is not known."""
    kept, interval, begin = (
        _number(hook, *one) for one in (('max_keep_ckpts', -1), ('interval', -1), ('save_begin', 0))
    )
    by_epoch, has_epochs = bool(hook.get('by_epoch', True)), _has_epochs(cfg)
    train_cfg = cfg.get('train_cfg') or {}
    length = train_cfg.get('max_epochs') if has_epochs else train_cfg.get('max_iters')
    if by_epoch and not has_epochs:
        return 1  # MMEngine counts the whole run as an epoch
    if not length or by_epoch != has_epochs:
        return kept if kept > 0 else None
    steps = range(begin or interval, length + 1, interval) if interval > 0 else ()
    written = {step for step in steps if step > done} | ({length} if hook.get('save_last', True) else set())
    return min(len(written), kept) if kept > 0 else len(written)


def _number(hook: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number among the options of a hook; what is none is for MMEngine to refuse."""
    value = hook.get(name, default)
    return value if isinstance(value, int) else default


def _count_files(folder: Path, hook: Mapping[str, Any]) -> int:
    """Checkpoints that are in a folder already."""
    own = re.escape(str(hook.get('filename_tmpl') or '')).replace(r'\{\}', r'\d+')
    names = (path.name for path in folder.glob('*'))
    return sum(bool(re.fullmatch(own or r'(iter|epoch)_\d+\.pth', name)) for name in names)
