"""Read a config file and apply the options of a command line."""

import importlib.util
import os
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config

from ..installing import how_to_install
from .config_files import check_files, explain_reading, text_of
from .config_names import find_config
from .config_sections import check_sections

EXTRAS = {'mmseg': 'seg', 'mmdet': 'det', 'mmpretrain': 'cls'}  # of setup.py, by default_scope


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config and apply ``--cfg-options``.

    The option ``data_root`` replaces the config's data root wherever the config uses it, in data sets and in
    annotation files of metrics.

    Args:
        path: Config file, name of a recipe, or ``mmtwins::``, ``mmseg::`` or ``mmdet::`` with the name of a config.
        options: Values by dotted name, as ``mmengine.config.DictAction`` gives them.

    Returns:
        The config.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The config needs a library that is not installed.
        ValueError: The file is no config, or an option does not fit it.
    """
    given, path = path, find_config(path)
    files = check_files(path)
    try:
        cfg = Config.fromfile(path)
    except ImportError as error:
        reason = str(error).partition(', the current sys.path')[0]  # the rest is a long list
        raise ImportError(f'{given}: {reason}: {how_to_install("all")}') from error
    except (Exception, SystemExit) as error:  # a config is code and may raise anything
        raise ValueError(explain_reading(error, path, files)) from error
    _apply(cfg, dict(options or {}), path)
    check_sections(cfg, path)
    library = cfg.get('default_scope')
    if library in EXTRAS:
        missing = [name for name in (library, 'mmcv') if importlib.util.find_spec(name) is None]
        if not missing and importlib.util.find_spec('mmcv._ext') is None:
            missing = ["mmcv's compiled operators"]
        if missing:
            raise ImportError(
                f'{given} needs {" and ".join(missing)}, not installed here: {how_to_install(EXTRAS[library])}'
            )
    return cfg


def _apply(cfg: Config, options: dict[str, Any], path: str) -> None:
    """Apply the options of a command line to a config, in place."""
    if 'data_root' in options:
        options['data_root'] = os.path.expanduser(str(options['data_root'])).rstrip('/') or '/'
        old = str(cfg.get('data_root') or '').rstrip('/')
        if old:
            _replace_root(cfg._cfg_dict, old, options['data_root'])
    _drop_own_scope(cfg._cfg_dict)
    try:
        cfg.merge_from_dict(options)
    except Exception as error:  # MMEngine raises several kinds
        given = ' '.join(f'{name}={value}' for name, value in options.items())
        raise ValueError(
            f'--cfg-options {given}: they do not fit {path}: {text_of(error)}: correct the names'
        ) from error


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
