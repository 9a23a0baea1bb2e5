"""Write the changes of a config as a short config that inherits it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from textwrap import wrap
from typing import Any

from .consumers import Edits
from .planning import Plan

WIDTH = 120
INDENT = 4
FAMILIES = {'svt': 'Twins-SVT', 'pcpvt': 'Twins-PCPVT'}
BLOCKS = 'backbone.blocks.'
NAMES = 'not_decayed'
TOP = 'model', 'optim_wrapper', 'param_scheduler'


def write_config(plan: Plan, base: str, arch: str) -> str:
    """The text of a config with a Twins backbone.

    Args:
        plan: What changes.
        base: What ``_base_`` becomes: a path from the folder of the config, or ``mmdet::...``.
        arch: Such as ``'svt-s'``.

    Returns:
        Python, which MMEngine's ``Config.fromfile`` reads. The same plan gives the same text.
    """
    return '\n'.join([*_heading(base, arch), f'_base_ = {base!r}', *_body(plan, lazy=False)]) + '\n'


def write_lazy_config(plan: Plan, base: str, arch: str) -> str:
    """The text of a config with a Twins backbone, for a base that is a pure-Python (lazy) config.

    Args:
        plan: What changes.
        base: Module to import in ``read_base``, such as ``'..rtmdet.rtmdet_s'``.
        arch: Such as ``'svt-s'``.

    Returns:
        A pure-Python (lazy) config.
    """
    kind = reduce(getitem, plan.path, plan.changes)['backbone']['type']
    changes = {key: value for key, value in plan.changes.items() if key != 'custom_imports'}
    lines = [*_heading(base, arch), 'from mmengine.config import read_base', '', f'from mmtwins import {kind}', '']
    lines += ['with read_base():', f'    from {base} import *', '']
    body = _body(replace(plan, changes=changes), lazy=True)
    return '\n'.join([*lines, *body]).replace(f"type='{kind}'", f'type={kind}') + '\n'


def _heading(base: str, arch: str) -> list[str]:
    family, _, size = arch.partition('-')
    return [f'# {FAMILIES[family]}-{size.upper()} in the base below, written by `mmtwins swap --arch {arch}`.']


def _body(plan: Plan, lazy: bool) -> list[str]:
    lines: list[str] = []
    for key in sorted(plan.changes, key=lambda key: (TOP.index(key) if key in TOP else -1, key)):
        change = plan.changes[key]
        reasons = dict(plan.reasons)
        for path, edits in _lists((key,), change):
            lines += _edit_list(path, edits, reasons, lazy)
        if isinstance(change, Edits):
            continue
        keys = _custom_keys(change)
        if any(name.startswith(BLOCKS) for name in keys):
            lines += _write_names(keys, plan.depths)
        if lazy and isinstance(change, dict):
            start, end = f'{key}.merge(', ')'
            change = _without_lists(change)
        else:
            start, end = f'{key} = ', ''
            if not isinstance(change, dict):
                lines += _comment(key, change, reasons, 0)
        lines += _write(change, start, end, 0, reasons)
    return lines


def _edit_list(path: tuple[str, ...], edits: Edits, reasons: dict[str, str], lazy: bool) -> list[str]:
    """Statements that change the elements of a list of the base."""
    lines = _comment(path[-1], edits, reasons, 0)
    place = '.'.join(path)
    if not lazy:
        lines.append(f'{path[-1]} = _base_.{place}')
        place = path[-1]
    for keys, value in _leaves(edits):
        lines += _write(value, place + ''.join(f'[{key!r}]' for key in keys) + ' = ', '', 0, reasons)
    return lines


def _lists(path: tuple[str, ...], change: Any) -> Iterator[tuple[tuple[str, ...], Edits]]:
    if isinstance(change, Edits):
        yield path, change
    elif isinstance(change, dict):
        for key, value in change.items():
            yield from _lists((*path, key), value)


def _leaves(change: Mapping[Any, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in change.items():
        if isinstance(value, dict) and '_delete_' not in value:
            for keys, leaf in _leaves(value):
                yield (key, *keys), leaf
        else:
            yield (key,), value


def _without_lists(change: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in change.items() if not isinstance(value, Edits)}
    return {key: _without_lists(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _custom_keys(change: Any) -> Mapping[str, Any]:
    return change.get('paramwise_cfg', {}).get('custom_keys', {}) if isinstance(change, dict) else {}


def _write_names(rules: Mapping[str, Any], depths: Sequence[int]) -> list[str]:
    """A short list comprehension of the names that share the rule of the norms in blocks."""
    rule = next(value for name, value in rules.items() if name.startswith(BLOCKS))
    others = [name for name, value in rules.items() if value == rule and not name.startswith(BLOCKS)]
    others = [name for name in others if '.' in name]
    start, end = 'backbone.patch_embeds.', '.norm'
    embeds = [name[len(start) : -len(end)] for name in others if name.startswith(start)]
    others = [name for name in others if not name.startswith(start)]
    stages = f'range({len(embeds)})' if embeds == [str(i) for i in range(len(embeds))] else f'({", ".join(embeds)},)'
    if embeds:
        others.append(Code(f"*(f'{start}{{stage}}{end}' for stage in {stages})"))
    return [
        '# MMEngine takes the longest key that is part of a name, so norms are named in full.',
        f'{NAMES} = {_one_line(others)}',
        f'{NAMES} += [',
        "    f'backbone.blocks.{stage}.{block}.{norm}'",
        f'    for stage, depth in enumerate({tuple(depths)})',
        '    for block in range(depth)',
        "    for norm in ('norm', 'attn.norm')",
        ']',
    ]


def _write(value: Any, start: str, end: str, indent: int, reasons: dict[str, str]) -> list[str]:
    """The lines of a value after ``start`` and before ``end``; dicts that do not fit a line get one for each key."""
    margin = ' ' * indent
    line = f'{margin}{start}{_one_line(value)}{end}'
    if not isinstance(value, dict):
        return [line]
    has_reasons = any(_reason(key, one, reasons) for key, one in _pairs(value))
    if len(line) <= WIDTH and not has_reasons:
        return [line]
    has_names = all(str(key).isidentifier() for key in value)
    names = _names_rule(value)
    if names is not None and all('.' in key and one == names for key, one in value.items()):
        return [f'{margin}{start}{{name: {_one_line(names)} for name in {NAMES}}}{end}']
    lines = [f'{margin}{start}{"dict(" if has_names else "{"}']
    for key, one in value.items():
        if names is not None and '.' in key and one == names:
            continue
        lines += _comment(key, one, reasons, indent + INDENT)
        if isinstance(one, Edits):
            one = Code(key)
        lines += _write(one, f'{key}=' if has_names else f'{key!r}: ', ',', indent + INDENT, reasons)
    if names is not None:
        lines.append(f'{margin}{" " * INDENT}**{{name: {_one_line(names)} for name in {NAMES}}},')
    return [*lines, f'{margin}{")" if has_names else "}"}{end}']


class Code(str):
    """Code to write as it is."""


def _names_rule(value: Mapping[str, Any]) -> Any:
    """The rule of the norms in blocks, if these are the rules of the optimizer."""
    return next((one for key, one in value.items() if str(key).startswith(BLOCKS)), None)


def _one_line(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Edits):
        return ''
    if isinstance(value, dict):
        if all(str(key).isidentifier() for key in value):
            return f'dict({", ".join(f"{key}={_one_line(one)}" for key, one in value.items())})'
        return f'{{{", ".join(f"{key!r}: {_one_line(one)}" for key, one in value.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(_one_line, value))}]'
    return repr(value)


def _pairs(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, one in value.items():
        yield key, one
        if isinstance(one, dict):
            yield from _pairs(one)


def _reason(key: str, value: Any, reasons: Mapping[str, str]) -> str | None:
    if key == 'init_cfg' and value is not None:  # the new backbone's own
        return None
    if isinstance(value, Edits):
        return key  # a variable of this name holds it, so the dict needs a line for it
    return reasons.get(key)


def _comment(key: str, value: Any, reasons: dict[str, str], indent: int) -> list[str]:
    """The reason of a key as comment lines, once."""
    if (key == 'init_cfg' and value is not None) or key not in reasons:
        return []
    text = reasons.pop(key)
    margin = ' ' * indent + '# '
    return wrap(f'{text[0].upper()}{text[1:]}.', WIDTH, initial_indent=margin, subsequent_indent=margin)
