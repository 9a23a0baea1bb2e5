"""Seeded mutations of a config: what a person types wrong, and what chance makes of its values."""

import random
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmtwins.engine.config_sections import SECTIONS

ODD_VALUES: list[Any] = [None, '', 'text', -1, 0, 1.5, True, [], {}, 10**9, [1, 2], {'type': 'Nothing'}, [None], 'a/b']
TEXTS: dict[str, str] = dict(
    syntax='a = (',
    indentation='  a = 1',
    undefined='a = nothing_of_the_kind',
    division='a = 1 / 0',
    assertion="assert False, 'this config is old'",
    exits='import sys\nsys.exit(0)',
    key_error="a = dict(b=1)\nc = a['d']",
    base_gone="_base_ = 'gone.py'",
    base_folder="_base_ = '.'",
    base_number='_base_ = 5',
    base_none='_base_ = [None]',
    base_of_mmseg="_base_ = 'mmseg::nope/nope.py'",
    base_of_mmdet="_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_koko.py'",
    base_of_nobody="_base_ = 'nobody::a.py'",
    base_of_mmtwins="_base_ = 'mmtwins::ade20k/nope.py'",
    base_itself="_base_ = 'config.py'",
    base_circle="_base_ = 'other.py'",
    base_twice="_base_ = ['one.py', 'one.py']",
    base_variable="_base_ = 'one.py'\nb = _base_.gone",
    reserved="filename = 'a'",
    imports="custom_imports = dict(imports=['not_there'])",
    imports_odd='custom_imports = 5',
    zero_byte='a = 1\0',
    empty='',
    only_text="'hello'",
    a_list='[1, 2]',
    lazy='from mmengine.config import read_base\nwith read_base():\n    from .gone import *',
    lazy_circle='from mmengine.config import read_base\nwith read_base():\n    from .config import *',
    scope_odd="default_scope = 'nothing'",
    scope_number='default_scope = 5',
    not_utf8='a = "\udcff"',
    deep='a = ' + '[' * 300 + ']' * 300,
)
OTHER_FILES = {'other.py': "_base_ = 'config.py'", 'one.py': 'a = 1'}


def write_text_mutation(name: str, folder: Path) -> Path:
    """Write the config that :data:`TEXTS` names, and those that it inherits; returns its path."""
    for other, text in OTHER_FILES.items():
        (folder / other).write_text(text)
    path = folder / 'config.py'
    path.write_bytes(TEXTS[name].encode(errors='surrogateescape'))
    return path


def places(container: Any, path: tuple = ()) -> list[tuple]:
    """The paths to all values inside dicts and lists."""
    items = (
        container.items()
        if isinstance(container, dict)
        else enumerate(container)
        if isinstance(container, list)
        else ()
    )
    found = []
    for key, value in items:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def write_value_mutation(cfg: Config, rng: random.Random, folder: Path) -> tuple[Path, str]:
    """Write a config with one value, or the name of one key, changed.

    Args:
        cfg: A config that works.
        rng: Draws what is changed.
        folder: Folder to write it to.

    Returns:
        Its path, and what was changed.
    """
    content = {
        name: value for name, value in cfg.to_dict().items() if name in SECTIONS and not name.startswith('test_')
    }
    place = rng.choice(places(content))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    key, change = place[-1], rng.choice(['delete', 'rename', 'value', 'value'])
    if change == 'rename' and isinstance(holder, dict):
        name = rng.choice([key[:-1], key + 's', key[:1] + key[2:], key.upper()]) or 'x'
        holder[name] = holder.pop(key)
        what = f'{key} becomes {name}'
    elif change == 'delete':
        del holder[key]
        what = f'{key} is gone'
    else:
        holder[key] = rng.choice(ODD_VALUES)
        what = f'{key} becomes {holder[key]!r}'
    path = folder / 'config.py'
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in content.items()))
    return path, f'{".".join(map(str, place))}: {what}'
