"""Convert public Twins checkpoints between the parameter names of the public code (native), timm, mmseg and mmpretrain."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..engine.arguments import readable_errors
from .bars import follow
from .parsing import parse, register

FORMATS = ('native', 'timm', 'mmseg', 'mmpretrain')  # those of mmtwins.weights.formats, without its import of torch
SUFFIXES = ('.pth', '.safetensors')
EXAMPLE = 'mmtwins convert imagenet:svt-small svt-small.safetensors --to timm'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins convert``."""
    parser.add_argument(
        'src', nargs='+', help='checkpoints in any format: files, URLs, hf-hub:OWNER/NAME or imagenet:NAME'
    )
    parser.add_argument(
        'dst', help='file to write, .pth or .safetensors; for several checkpoints, or with / at its end, a folder'
    )
    parser.add_argument('--to', required=True, choices=FORMATS, help='parameter names to write')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins convert ARGV``."""
    args = parse(__name__, argv)
    register()
    with readable_errors():
        pairs = name_targets(args.src, args.dst)
        if len(pairs) == 1:
            convert_file(*pairs[0], args.to)
            return
        for src, dst in follow(pairs, 'converting'):
            convert_file(src, dst, args.to, with_table=False)


def name_targets(sources: Sequence[str], dst: str) -> list[tuple[str, Path]]:
    """Choose the file that each checkpoint is written to.

    Args:
        sources: Checkpoints to read.
        dst: File or folder to write.

    Returns:
        Each checkpoint with the file to write.

    Raises:
        ValueError: ``dst`` does not fit the number of checkpoints, two of them would be written to the same file, or a file
            to write is a checkpoint to read.
    """
    if len(sources) > 1 or dst.endswith(('/', os.sep)) or Path(dst).is_dir():
        if Path(dst).exists() and not Path(dst).is_dir():
            raise ValueError(f'{dst} is a file: name a folder for {len(sources)} checkpoints')
        if len(sources) > 1 and dst.endswith(SUFFIXES) and not Path(dst).is_dir():
            raise ValueError(f'{dst}: {len(sources)} checkpoints need a folder: give a name that ends in no suffix')
        targets = [Path(dst, _file_name(source)) for source in sources]
    else:
        if not dst.endswith(SUFFIXES):
            raise ValueError(f'{dst}: give a file that ends in .pth or .safetensors')
        targets = [Path(dst)]
    for source, target in zip(sources, targets):
        if targets.count(target) > 1:
            same = ' and '.join(one for one, other in zip(sources, targets) if other == target)
            raise ValueError(f'{same} would both be written to {target}: convert them one by one')
        for other in sources:
            if target.exists() and Path(other).exists() and target.samefile(other):
                raise ValueError(
                    f'{target} is {"the" if other == source else "a"} checkpoint to read: give another file to write'
                )
    return list(zip(sources, targets))


def _file_name(source: str) -> str:
    """The file name of a converted checkpoint in a folder: its own name, with a suffix that we write."""
    name = re.split(r'[/\\:]', re.sub(r'[?#].*', '', source).rstrip('/'))[-1]
    stem, suffix = os.path.splitext(name)
    if suffix in SUFFIXES:
        return name
    return f'{stem if suffix in (".bin", ".pt", ".ckpt", ".pkl") else name}.pth'


def convert_file(src: str, dst: Path, to: str, with_table: bool = True) -> None:
    """Convert a checkpoint, and print what became of its tensors.

    Args:
        src: Checkpoint, as ``mmtwins.weights.loading.read_checkpoint`` takes it.
        dst: File to write.
        to: Format, out of :data:`FORMATS`.
        with_table: Whether to list the renamed tensors, or only print how many there are.

    Raises:
        OSError, ValueError: The checkpoint cannot be read, converted or written.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from safetensors.torch import save

    from ..weights.converting import convert, trace
    from ..weights.formats import recognise
    from ..weights.loading import read_checkpoint
    from ..weights.saving import serialise, write_whole

    source = read_checkpoint(src)
    found = recognise(source)
    converted = convert(source, to)
    if dst.suffix == '.safetensors':
        content = save({name: value.clone().contiguous() for name, value in converted.items()})
    else:
        content = serialise({'state_dict': converted})
    dst.parent.mkdir(parents=True, exist_ok=True)
    write_whole(dst, content)

    origins = trace(source, to)
    moves = Counter((' + '.join(map(generic, names)) or 'zeros', generic(name)) for name, names in origins.items())
    dropped = Counter(generic(name) for name in source.keys() - {name for names in origins.values() for name in names})
    if with_table:
        table = Table('tensors', f'from ({found.format})', f'to ({to})')
        for (names, target), count in moves.items():
            table.add_row(str(count), escape(names), escape(target))
        for name, count in sorted(dropped.items()):
            table.add_row(str(count), escape(name), 'dropped')
        Console(width=None if Console().is_terminal else 160).print(table)
    print(f'{len(source)} tensors read, {len(converted)} written to {dst}, {dropped.total()} dropped')


def generic(name: str) -> str:
    """Replace the numbers of stages and blocks in a parameter name by ``*``."""
    return re.sub(r'(?<=\.)\d+(?=\.)', '*', name)
