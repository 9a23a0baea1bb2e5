"""Convert a public Twins checkpoint between native names (the public code's), and those of timm, mmseg and mmpretrain."""

import argparse
import os
import re
import signal
from collections import Counter
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from mmtwins.engine.arguments import readable_errors
from mmtwins.weights.converting import convert, trace
from mmtwins.weights.formats import FORMATS, recognise
from mmtwins.weights.loading import read_checkpoint
from mmtwins.weights.saving import serialise, write_whole


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='checkpoint in any format: a file, a URL, hf-hub:OWNER/NAME or imagenet:NAME')
    parser.add_argument('dst', help='file to write, .pth or .safetensors')
    parser.add_argument('--to', required=True, choices=FORMATS, help='names to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        if not args.dst.endswith(('.pth', '.safetensors')):
            raise ValueError(f'{args.dst}: give a file that ends in .pth or .safetensors')
        if Path(args.dst).exists() and Path(args.src).exists() and Path(args.dst).samefile(args.src):
            raise ValueError(f'{args.dst} is the checkpoint to read: give another file to write')
        source = read_checkpoint(args.src)
        found = recognise(source)
        converted = convert(source, args.to)
        if args.dst.endswith('.safetensors'):
            content = save({name: value.clone().contiguous() for name, value in converted.items()})
        else:
            content = serialise({'state_dict': converted})
        Path(args.dst).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(args.dst), content)

    origins = trace(source, args.to)
    moves = Counter((' + '.join(map(generic, names)) or 'zeros', generic(name)) for name, names in origins.items())
    dropped = Counter(generic(name) for name in source.keys() - {name for names in origins.values() for name in names})
    table = Table('tensors', f'from ({found.format})', f'to ({args.to})')
    for (names, target), count in moves.items():
        table.add_row(str(count), names, target)
    for name, count in sorted(dropped.items()):
        table.add_row(str(count), name, 'dropped')
    Console(width=None if Console().is_terminal else 160).print(table)
    print(f'{len(source)} tensors read, {len(converted)} written to {args.dst}, {dropped.total()} dropped')


def generic(name: str) -> str:
    """A name with * for the numbers of stages and blocks."""
    return re.sub(r'(?<=\.)\d+(?=\.)', '*', name)


if __name__ == '__main__':
    main()
