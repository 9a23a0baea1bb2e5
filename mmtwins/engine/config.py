"""Read a config file and apply the options of a command line."""

import difflib
import importlib.util
import inspect
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import build_from_cfg

from ..installing import how_to_install

EXTRAS = {'mmseg': 'seg', 'mmdet': 'det'}  # of setup.py, by default_scope


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config and apply ``--cfg-options``.

    The option ``data_root`` replaces the config's data root wherever the config uses it, in data sets and in
    annotation files of metrics.

    Args:
        path: Config file.
        options: Values by dotted name, as ``mmengine.config.DictAction`` gives them.

    Returns:
        The config.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The config needs a library that is not installed.
        ValueError: The file is no config, or an option does not fit it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist: give a path such as configs/ade20k/NAME.py')
    options = dict(options or {})
    try:
        cfg = Config.fromfile(path)
        if 'data_root' in options:
            options['data_root'] = os.path.expanduser(str(options['data_root'])).rstrip('/') or '/'
            old = str(cfg.get('data_root') or '').rstrip('/')
            if old:
                _replace_root(cfg._cfg_dict, old, options['data_root'])
        _drop_own_scope(cfg._cfg_dict)
        cfg.merge_from_dict(options)
    except ImportError as error:
        raise ImportError(f'{path}: {error}: {how_to_install("all")}') from error
    except FileNotFoundError as error:
        if '.mim' in str(error):
            raise FileNotFoundError(
                f"{path}: _base_ = 'mmtwins::...' needs an installed package (pip install ., not editable); in a checkout, "
                'write the path of the config'
            ) from error
        raise
    except (TypeError, KeyError, SyntaxError) as error:
        raise ValueError(f'{path} with the options {options}: {type(error).__name__}: {error}') from error
    library = cfg.get('default_scope')
    if library in EXTRAS:
        missing = [name for name in (library, 'mmcv') if importlib.util.find_spec(name) is None]
        if not missing and importlib.util.find_spec('mmcv._ext') is None:
            missing = ["mmcv's compiled operators"]
        if missing:
            raise ImportError(
                f'{path} needs {" and ".join(missing)}, not installed here: {how_to_install(EXTRAS[library])}'
            )
    return cfg


def explain_config_error(error: BaseException) -> str | None:
    """Say in one line what is wrong with a config, if an error comes from building what it describes.

    Args:
        error: Raised while MMEngine built a Runner or a part of it.

    Returns:
        The line, with the arguments that the class takes; None for another error.
    """
    if not isinstance(error, TypeError | KeyError | AttributeError | AssertionError):
        return None
    built = [
        frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code is build_from_cfg.__code__
    ]
    if not built:
        return None
    kind, message = built[-1].get('obj_cls'), str(error.args[0] if error.args else error)
    if kind is None:
        return f'the config does not fit: {message}'
    found = re.search(r"unexpected keyword argument '(\w+)'", message)
    if found is None:
        return f'the config of {kind.__name__} does not fit: {type(error).__name__}: {message}'
    known = [name for name in _arguments_of(kind) if name not in ('self', 'runner', 'args', 'kwargs')]
    close = difflib.get_close_matches(found[1], known, n=1)
    remedy = f'do you mean {close[0]}?' if close else f'its arguments are {", ".join(known)}'
    return f'the config of {kind.__name__} has {found[1]}, which it does not know: {remedy}'


def _arguments_of(kind: Any) -> list[str]:
    """The arguments of a class and of those that it hands its other arguments to, or of a function."""
    makers = (
        [vars(base)['__init__'] for base in kind.__mro__ if '__init__' in vars(base)]
        if isinstance(kind, type)
        else [kind]
    )
    found: dict[str, None] = {}
    for maker in makers:
        parameters = inspect.signature(maker).parameters
        found.update(dict.fromkeys(parameters))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return list(found)


def _drop_own_scope(container: dict | list | tuple) -> None:
    """Leave it to default_scope where types come from: a base 'mmtwins::...' marks all of its types as ours."""
    values: Iterable = container
    if isinstance(container, dict):
        if dict.get(container, '_scope_') == 'mmtwins':
            dict.pop(container, '_scope_')
        values = dict.values(container)
    for value in values:
        if isinstance(value, dict | list | tuple):
            _drop_own_scope(value)


def _replace_root(container: dict | list, old: str, new: str) -> None:
    """Replace the start of every path in a config, in place; tuples are made anew."""
    # dict's own methods: those of ConfigDict would build what a lazy config only names.
    items = dict.items(container) if isinstance(container, dict) else enumerate(container)
    for key, value in list(items):
        if isinstance(value, tuple):
            value = list(value)
            _replace_root(value, old, new)
            value = tuple(value)
        elif isinstance(value, dict | list):
            _replace_root(value, old, new)
        elif isinstance(value, str) and (value.rstrip('/') == old or value.startswith(f'{old}/')):
            value = new + value.rstrip('/')[len(old) :]
        if isinstance(container, dict):
            dict.__setitem__(container, key, value)
        else:
            container[key] = value
