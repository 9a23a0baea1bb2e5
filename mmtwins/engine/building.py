"""Say where in a config the cause is, when something that it describes cannot be built or fails at its first use."""

import errno
import inspect
import math
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import Registry, build_from_cfg
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .config_files import text_of

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
LIBRARIES = ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'mmtwins')

# Parts of messages of torch, and what to do.
REMEDIES = {
    'Expected more than 1 value per channel': 'batch norm needs two images or more: raise train_dataloader.batch_size',
    'out of memory': 'lower train_dataloader.batch_size or the size of the images',
}


class ConfigError(ValueError):
    """What a config describes cannot be built, or fails at once."""


@contextmanager
def naming_config(cfg: Config) -> Iterator[None]:
    """Turn what goes wrong while a config is built into one sentence with its place in the config.

    Args:
        cfg: The config.

    Raises:
        ConfigError: Something could not be built. ValueError, OSError and ImportError from elsewhere stay as they are.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        frame = _innermost_build(error.__traceback__)
        if frame is None and isinstance(error, ValueError | OSError | ImportError):
            raise
        raise ConfigError(_explain(error, cfg, frame, 'what it describes cannot be built')) from error


@contextmanager
def naming_first_steps(runner: Runner) -> Iterator[None]:
    """Turn what goes wrong in building, and in the first iteration and evaluation of a Runner, into one sentence.

    Later errors stay as they are, since what has worked once is not wrong in the config. The whole traceback of what is
    turned goes to ``traceback.txt`` in the folder of the log.

    Args:
        runner: Before ``train()``, ``val()`` or ``test()``.

    Raises:
        ConfigError: Something fails the first time.
    """
    progress = _Progress()
    runner.register_hook(progress)
    try:
        yield
    except Exception as error:
        disk_is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if progress.has_worked[progress.mode] or disk_is_full or isinstance(error, ConfigError):
            raise
        path = Path(runner.log_dir) / 'traceback.txt'
        path.write_text(''.join(traceback.format_exception(error)))
        names = dict(train='the first iteration', val='the first validation', test='the test')
        frame = _innermost_build(error.__traceback__)
        sentence = _explain(error, runner.cfg, frame, f'{names[progress.mode]} fails')
        raise ConfigError(f'{sentence} (the whole traceback is in {path})') from error


class _Progress(Hook):
    """Notes what runs, and whether it has worked once."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.mode, self.has_worked = 'train', {'train': False, 'val': False, 'test': False}

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self.mode = mode

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = ''
    ) -> None:
        if mode == 'train':
            self.mode, self.has_worked[mode] = mode, True

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.has_worked['val'], self.mode = True, 'train'

    def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.has_worked['test'] = True


def _innermost_build(trace: TracebackType | None) -> dict[str, Any] | None:
    """The variables of the last call of MMEngine's ``build_from_cfg`` in a traceback."""
    found = [frame.f_locals for frame, _ in traceback.walk_tb(trace) if frame.f_code is build_from_cfg.__code__]
    return found[-1] if found else None


def _explain(error: Exception, cfg: Config, frame: dict[str, Any] | None, doing: str) -> str:
    """File, place, fault and remedy."""
    path = cfg.filename or 'the config'
    if frame is None:
        if _is_ours(error):
            return str(error)  # it names a file and a remedy itself
        remedy = next((remedy for part, remedy in REMEDIES.items() if part in str(error)), 'correct the config')
        return f'{path}: {doing}{_place_in_code(error)}: {_message(error)}: {remedy}'
    given, built = frame.get('cfg'), frame.get('obj_cls')
    place = _find(cfg._cfg_dict, given) if isinstance(given, Mapping) else ''
    kind = getattr(built, '__name__', '')
    where = f'{path}: ' + (f'{place} ({kind})' if place and kind else place or kind or 'a part of it')
    if built is None:
        return f'{where}: {_explain_type(given, frame.get("registry"), error)}'
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown and str(error).startswith('DataLoader.'):  # which a loop builds
        built, places = DataLoader, [name for name in LOADERS if unknown[1] in (cfg.get(name) or {})]
        where = f'{path}: {" and ".join(places)} (DataLoader)'
    if unknown:
        known = _arguments(built)
        close = get_close_matches(unknown[1], known, 1)
        remedy = f'do you mean {close[0]}?' if close else f'it has {", ".join(known)}'
        return f'{where} has no argument {unknown[1]}: {remedy}'
    missing = re.search(r'missing \d+ required .*arguments?: (.*)', str(error))
    if missing:
        return f'{where} lacks {missing[1]}: add it'
    if isinstance(error, ValueError):
        return f'{where}: {_message(error)}'
    return f'{where} cannot be built{_place_in_code(error)}: {_message(error)}: correct its values'


def _is_ours(error: Exception) -> bool:
    """Whether code of this package raised a sentence for the user."""
    modules = [_module(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, ValueError | OSError) and bool(modules) and modules[-1][0] == 'mmtwins'


def _module(frame: FrameType) -> list[str]:
    """The parts of the name of the module whose code runs in a frame. Its path may lie in a folder named like a library."""
    return str(frame.f_globals.get('__name__', '')).split('.')


def _explain_type(given: Any, registry: Any, error: Exception) -> str:
    """What is wrong with the ``type`` of a dict."""
    kind = given.get('type') if isinstance(given, Mapping) else None
    if kind is None:
        shown = f', but has {", ".join(map(str, given))}' if isinstance(given, Mapping) and given else ''
        return (
            f'it is {given!r}, not a dict with a type' if not isinstance(given, Mapping) else f'it needs a type{shown}'
        )
    if not isinstance(kind, str) or not isinstance(registry, Registry):
        return f'its type is {kind!r}: name a class. {_message(error)}'
    names = [name for one in (registry, registry.parent, registry.root) if one is not None for name in one.module_dict]
    close = get_close_matches(kind, names, 1)
    hint = f'do you mean {close[0]}?' if close else 'correct the name, or import the module that registers it'
    return f'{kind!r} is no {registry.name} of {registry.scope}: {hint}'


def _arguments(built: Any) -> list[str]:
    """The arguments of a class, those of its bases too where it passes them on."""
    names: dict[str, None] = {}
    for base in getattr(built, '__mro__', (built,)):
        function = base.__dict__.get('__init__') if isinstance(base, type) else base
        if function is None or function is object.__init__:
            continue
        parameters = inspect.signature(function).parameters.values()
        named = (one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
        names.update(dict.fromkeys(named))
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return [name for name in names if name not in ('self', 'runner')]


def _find(config: Any, wanted: Mapping, key: str = '') -> str:
    """The place of a dict in a config: of those with the same type, the one that has most in common with it."""
    best, best_score = '', -math.inf

    def search(part: Any, key: str) -> None:
        nonlocal best, best_score
        if isinstance(part, Mapping):
            same = sum(
                name in wanted and _equal(wanted[name], value) for name, value in part.items() if name != '_scope_'
            )
            is_renamed = same == len(part) - 1 > 0  # a loop, which we replace by one of ours
            score = 2 * same - len(part)
            if (part.get('type') == wanted.get('type') or is_renamed) and score > best_score:
                best, best_score = key, score
            for name, value in part.items():
                search(value, f'{key}.{name}' if key else str(name))
        elif isinstance(part, list | tuple):
            for index, value in enumerate(part):
                search(value, f'{key}[{index}]')

    search(config, key)
    return best


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays have no truth
        return False


def _place_in_code(error: Exception) -> str:
    """Where in the libraries it happened."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module, parts = _module(frame), Path(frame.f_code.co_filename).parts
        if (
            module[0] in LIBRARIES
            and module[0] in parts
            and 'registry' not in module
            and frame.f_globals is not globals()
        ):
            path = '/'.join(parts[len(parts) - 1 - parts[::-1].index(module[0]) :])
            return f' in {path}, line {line}'
    return ''


def _message(error: Exception) -> str:
    """Kind and text of an error in one line; of one without text, its line of code."""
    lines = [line for line in text_of(error).splitlines() if line.strip()]
    if not lines:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f'"{frames[-1].line}"'] if frames and frames[-1].line else ['no message']
    last = (
        lines[-1] if lines[0].startswith('Caught ') else lines[0]
    )  # of a data loader's worker: what the worker raised
    return (
        last
        if isinstance(error, ValueError) and not lines[0].startswith('Caught ')
        else f'{type(error).__name__}: {last}'
    )
