"""What can be wrong with config files: what they inherit, their code, their form; said by file and line."""

import ast
import os
import traceback
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .config_names import SUFFIXES, find_external, inheritable

EXAMPLE = 'give a path such as configs/ade20k/NAME.py'


def check_files(path: str) -> set[str]:
    """Check that a config and all that it inherits are there, and that none inherits itself.

    Args:
        path: Config file.

    Returns:
        All files that were found.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is none that MMEngine can read, or inherits itself.
    """
    if not Path(path).is_file():
        what = 'is a folder' if os.path.isdir(path) else 'is no file' if os.path.exists(path) else 'does not exist'
        raise FileNotFoundError(f'config {path} {what}: {EXAMPLE}')
    if not path.endswith(SUFFIXES):
        raise ValueError(f'config {path} ends in none of {", ".join(SUFFIXES)}: {EXAMPLE}')
    return set(_iter_files(path, ()))


def _iter_files(path: str, heirs: tuple[str, ...]) -> Iterator[str]:
    """A config and all that it inherits; ``heirs`` are those that inherit it."""
    yield path
    real = os.path.realpath(path)
    if real in heirs:
        circle = [os.path.basename(one) for one in (*heirs[heirs.index(real) :], real)]
        raise ValueError(f'{path} inherits itself: {" -> ".join(circle)}: take one of them out of _base_')
    bases, imported = _bases_of(path)
    for base in bases:
        if not isinstance(base, str):
            raise ValueError(f'{path}: _base_ holds {base!r}: write the path of a config, or a list of paths')
        if '::' in base:
            found = find_external(base, f'{path}: _base_ names {base}', 'correct _base_')
            if base != inheritable(base):
                raise ValueError(f'{path}: _base_ names {base}, which MMEngine cannot read: write {inheritable(base)}')
        else:
            found = os.path.join(os.path.dirname(path), base)
        if not os.path.isfile(found):
            what = f'{found}, which is a folder' if os.path.isdir(found) else f'{found}, which does not exist'
            raise FileNotFoundError(f'{path}: _base_ names {what}: correct _base_{_similar_file(found)}')
        yield from _iter_files(found, (*heirs, real))
    for found in imported:
        if os.path.isfile(found):  # or MMEngine says what is missing
            yield from _iter_files(found, (*heirs, real))


def _bases_of(path: str) -> tuple[list[Any], list[str]]:
    """What a config names in ``_base_``, and the files that a pure-Python config imports with ``read_base``."""
    imported = []
    try:
        if path.endswith('.py'):
            for node in ast.walk(ast.parse(Path(path).read_text(encoding='utf-8'))):
                if isinstance(node, ast.ImportFrom) and node.level and node.module:
                    parts = [os.pardir] * (node.level - 1) + node.module.split('.')
                    imported.append(os.path.join(os.path.dirname(path), *parts) + '.py')
        return Config._get_base_files(path), imported
    except (Exception, SystemExit) as error:
        raise ValueError(explain_reading(error, path, {path})) from error


def _similar_file(path: str) -> str:
    folder = Path(path).parent
    names = [file.name for file in folder.glob('*')] if folder.is_dir() else []
    similar = get_close_matches(os.path.basename(path), [name for name in names if name.endswith(SUFFIXES)], 1)
    return f' (perhaps {similar[0]} is meant)' if similar else ''


def text_of(error: BaseException) -> str:
    """The text of an error, for a KeyError without the quotes that Python puts around it."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def explain_reading(error: BaseException, path: str, files: set[str]) -> str:
    """Say what happened while a config file was read or run.

    Args:
        error: What was raised.
        path: The config file.
        files: It, and those that it inherits.

    Returns:
        File, line, error and what to do.
    """
    if isinstance(error, RecursionError):
        return f'{path} inherits itself, or is nested too deeply: simplify it'
    if isinstance(error, SystemExit):
        return f'{path} ends the program ({error.code!r}): a config only assigns values, remove the exit'
    if isinstance(error, SyntaxError):
        line = f', line {error.lineno}' if error.lineno else ''
        return f'{path}{line}: {error.msg}: correct the file'
    if isinstance(error, UnicodeDecodeError):
        return f'{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8'
    known = {os.path.realpath(one): one for one in files}
    place = path
    for frame in traceback.extract_tb(error.__traceback__):  # a config runs as code of its own file
        if os.path.realpath(frame.filename) in known:
            place = f'{known[os.path.realpath(frame.filename)]}, line {frame.lineno}'
    message = text_of(error)
    kind = type(error).__name__
    return f'{place}: {kind}: {message}: correct the file' if message else f'{place}: {kind}: correct the file'
