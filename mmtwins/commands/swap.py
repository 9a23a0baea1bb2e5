"""Write a config that inherits one of MMSegmentation or MMDetection and replaces its backbone by Twins."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..engine.arguments import readable_errors
from ..engine.config_names import complete_config, find_config, inheritable
from .parsing import parse, register

ARCHS = ('svt-s', 'svt-b', 'svt-l', 'pcpvt-s', 'pcpvt-b', 'pcpvt-l')  # those of mmtwins.swapping.stages, without torch
EXAMPLE = 'mmtwins swap mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --arch svt-s --out own.py'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins swap``."""
    base = parser.add_argument(
        'base', help='config to inherit, of a segmentor or a detector: a file, mmseg::NAME or mmdet::NAME'
    )
    base.completer = complete_config  # type: ignore[attr-defined]
    parser.add_argument('--arch', choices=ARCHS, default='svt-s', help='Twins backbone (default: %(default)s)')
    parser.add_argument('--out', required=True, metavar='FILE', help='config to write; FILE ends in .py')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins swap ARGV``."""
    args = parse(__name__, argv)
    register()
    with readable_errors():
        text = swapped_text(args.base, args.arch, args.out)
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(text, encoding='utf-8')
    print(f'{args.out} is written; train it with `mmtwins train {shlex.quote(args.out)}`')


def swapped_text(base: str, arch: str, out: str) -> str:
    """Make the text of a config that inherits another one and has a Twins backbone.

    Args:
        base: Config to inherit: a path, ``mmseg::NAME`` or ``mmdet::NAME``.
        arch: Architecture, such as ``'svt-s'``.
        out: File that the text is for. Relative paths in the text start there.

    Returns:
        The text.

    Raises:
        FileNotFoundError, ImportError: As :func:`mmtwins.engine.config.load_config`.
        ValueError: The base is no config, cannot take Twins, or ``out`` cannot be the file.
    """
    from mmengine.config import Config

    from ..engine.config import load_config
    from ..engine.config_files import check_files
    from ..swapping.planning import plan_swap
    from ..swapping.refusing import CannotSwap
    from ..swapping.writing import write_config, write_lazy_config

    if not out.endswith('.py'):
        raise ValueError(f'--out {out}: name a file that ends in .py')
    path = find_config(base)
    if os.path.realpath(out) == os.path.realpath(path):
        raise ValueError(f'--out {out} is the base itself: name another file')
    cfg = load_config(base)
    if os.path.realpath(out) in map(os.path.realpath, check_files(path)):
        raise ValueError(f'--out {out} is a file that {base} inherits: name another file')
    try:
        plan = plan_swap(cfg, arch)
    except CannotSwap as error:
        raise ValueError(f'{base} cannot take Twins: {error}') from error
    inherited = inheritable(base) if '::' in base else Path(os.path.relpath(path, Path(out).parent)).as_posix()
    if Config._is_lazy_import(path):
        return write_lazy_config(plan, _module_of(inherited, base), arch)
    if '::' not in base and os.path.realpath(Path(out).parent / inherited) != os.path.realpath(path):
        inherited = os.path.abspath(path)  # `..` leads elsewhere from a folder that is a link
    return write_config(plan, inherited, arch)


def _module_of(path: str, base: str) -> str:
    """The module to import in a pure-Python (lazy) config."""
    *folders, name = path.removesuffix('.py').split('/')
    ups = folders.count('..')
    parts = [*folders[ups:], name]
    if '::' in base or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f'{base} is a pure-Python (lazy) config, and Python cannot import {"/".join(parts)}: copy it to a file whose path '
            'has only letters, digits and _'
        )
    return '.' * (ups + 1) + '.'.join(parts)
