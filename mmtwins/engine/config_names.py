"""What a config argument may name: a file, a recipe of this package, or a config of MMSegmentation or MMDetection."""

import importlib.util
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

SUFFIXES = ('.py', '.json', '.yml', '.yaml')  # of config files that MMEngine reads
_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """The folder that holds ``configs``, ``tools`` and ``model-index.yml``: ``.mim`` of an install, or the checkout."""
    installed = _PACKAGE / '.mim'
    return installed if installed.is_dir() else _PACKAGE.parent


def recipe_files() -> dict[str, Path]:
    """The recipes of this package: their files by name, in the order of folders and names."""
    folder = shipped_folder() / 'configs'
    return {path.stem: path for path in sorted(folder.glob('*/*.py')) if not path.parent.name.startswith('_')}


def find_config(name: str) -> str:
    """The file that a config argument names.

    Args:
        name: Path of a file; name of a recipe, as ``mmtwins list`` shows it; or ``SCOPE::NAME``, where the scope is
            ``mmtwins``, ``mmseg``, ``mmdet`` or another package with configs.

    Returns:
        The path of the file. A path that is no file is returned unchanged.

    Raises:
        FileNotFoundError: There is no such recipe or config; the message names similar ones.
    """
    if os.path.isfile(name):
        return name
    scope, separator, rest = name.partition('::')
    if separator and scope != 'mmtwins':
        return find_external(name, f'config {name}', 'correct the name')
    recipes = recipe_files()
    wanted = rest if separator else name
    stem = os.path.basename(wanted).removesuffix('.py')
    if separator:
        folder = os.path.dirname(wanted)
        if stem in recipes and folder in ('', recipes[stem].parent.name):
            return str(recipes[stem])
    elif os.path.dirname(name) or (name.endswith(SUFFIXES) and stem not in recipes and not _similar(stem, recipes)):
        if not os.path.exists(name) and stem in recipes:
            raise FileNotFoundError(f'config {name} does not exist: the recipe is found by its name alone, {stem}')
        return name
    elif stem in recipes:
        return str(recipes[stem])
    elif os.path.exists(name):
        return name
    similar = _similar(stem, recipes)
    hint = f', perhaps {" or ".join(similar)} is meant' if similar else ''
    raise FileNotFoundError(
        f'config {name} is no file, and no recipe has this name{hint}: `mmtwins list` shows the recipes'
    )


def find_external(base: str, named: str, remedy: str) -> str:
    """The config file of an installed package.

    Args:
        base: ``SCOPE::NAME``.
        named: Start of messages, which says what names the config.
        remedy: End of messages, which says what to do about a wrong name.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no such package or config.
    """
    from mmengine.config import Config
    from mmengine.utils import get_installed_path

    scope, _, name = base.partition('::')
    if not scope.isidentifier() or importlib.util.find_spec(scope) is None:
        raise FileNotFoundError(f'{named}, but there is no package {scope}: install it, or {remedy}')
    try:
        found = Config._get_cfg_path(inheritable(base), '')[0]
        if os.path.isfile(found):
            return found
    except Exception:  # many kinds, all of them: there is no such config
        pass
    try:
        folder = Path(get_installed_path(scope)) / '.mim' / 'configs'
    except Exception:
        folder = Path('nowhere')
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{named}, but this install of {scope} holds no configs: install it (pip install ., not editable), or write the '
            'path of the config'
        )
    known = [file.relative_to(folder).as_posix() for file in folder.rglob('*.py')]
    similar = get_close_matches(name, known, 1, 0.4)
    hint = f', perhaps {scope}::{similar[0]} is meant' if similar else ''
    raise FileNotFoundError(f'{named}, which {scope} does not have{hint}: {remedy}')


def inheritable(base: str) -> str:
    """What ``_base_`` must be for ``SCOPE::NAME``: MMEngine reads no folders such as ``gn+ws`` and ``legacy_1.x`` there."""
    scope, _, name = base.partition('::')
    return base if re.match(r'\w*/', name) or '/' not in name else f'{scope}::_base_/../{name}'


def _similar(name: str, recipes: dict[str, Path]) -> list[str]:
    return get_close_matches(name, recipes, 3, 0.6)


def complete_config(prefix: str, **_: Any) -> list[str]:
    """Recipes, and config files and folders, that begin with what was typed; for argcomplete."""
    from argcomplete.completers import FilesCompleter

    files = FilesCompleter(allowednames=[suffix[1:] for suffix in SUFFIXES])(prefix)
    return [name for name in recipe_files() if name.startswith(prefix)] + list(files)
