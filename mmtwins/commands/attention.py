"""Draw what points of an image attend to in a trained model: in every stage, inside their window and over the sub-windows."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..engine.arguments import add_checkpoint, add_config_with_options, add_device, readable_errors
from .bars import stepping
from .parsing import parse, refuse, register

EXAMPLE = 'mmtwins attention upernet_twins-svt-s_8xb2-160k_ade20k-512x512 imagenet:svt-small a.jpg --points 40 170'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins attention``."""
    add_config_with_options(parser)
    add_checkpoint(parser)
    parser.add_argument('image', nargs='+', help='image files, each with the same points')
    add_device(parser)
    parser.add_argument(
        '--points',
        type=int,
        nargs='+',
        required=True,
        metavar='X Y',
        help='points whose attention is drawn, in pixels of the image',
    )
    parser.add_argument(
        '--out',
        help='PNG file to write (default: work_dirs/attention/NAME OF THE IMAGE.png); for several images a folder',
    )
    parser.add_argument('--stages', type=int, nargs='+', metavar='N', help='stages, counted from 1 (default: all)')
    parser.add_argument(
        '--block',
        nargs='+',
        default=['last'],
        metavar='N',
        help='blocks of each stage, counted from 1, or last: the last local and the last global one (default: last)',
    )
    parser.add_argument('--heads', action='store_true', help='also draw each head (default: only their average)')
    parser.add_argument('--features', action='store_true', help='also draw the output of each stage, as colours')
    parser.add_argument(
        '--rollout',
        action='store_true',
        help='also draw which parts of the image the output of each stage depends on, through all blocks before it',
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments; ``points`` becomes pairs, ``block`` becomes ``'last'`` or a list of numbers."""
    args = parse(__name__, argv)
    if len(args.points) % 2:
        refuse(__name__, f'--points takes pairs of x and y, not {len(args.points)} numbers')
    args.points = list(zip(args.points[::2], args.points[1::2]))
    if args.block == ['last']:
        args.block = 'last'
    elif all(number.isdecimal() for number in args.block):
        args.block = [int(number) for number in args.block]
    else:
        refuse(__name__, f'--block {" ".join(args.block)}: give last, or numbers from 1')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins attention ARGV``."""
    args = parse_args(argv)
    register()
    from ..analysis.attention_figures import draw_attention
    from ..analysis.inspection import inspect_image
    from ..inference.inferencers import load_inferencer

    with readable_errors():
        targets = name_figures(args.image, args.out)
        written = []
        with stepping('drawing', 1 + len(targets)) as step:
            inferencer = load_inferencer(args.config, args.checkpoint, args.device, args.cfg_options)
            step()
            for image, target in targets:
                inspection = inspect_image(inferencer, image, args.points, args.stages, args.block, args.rollout)
                written.append(draw_attention(inspection, str(target), args.heads, args.features))
                step()
    print(*(f'Wrote {path}' for path in written), sep='\n')


def name_figures(images: Sequence[str], out: str | None) -> list[tuple[str, Path]]:
    """Choose the file of each image's figure.

    Args:
        images: Files of images.
        out: Value of ``--out``.

    Returns:
        Each image with the file of its figure.

    Raises:
        ValueError: There are several images, and ``out`` is a file.
    """
    if len(images) == 1 and out and not Path(out).is_dir():
        return [(images[0], Path(out))]
    from ..inference.writers import name_results

    folder = Path(out or 'work_dirs/attention')
    if folder.is_file() or (folder.suffix.lower() == '.png' and not folder.is_dir()):
        raise ValueError(f'--out {folder}: {len(images)} images need a folder')
    names = name_results(images)
    return [(image, folder / f'{name}.png') for image, name in names.items()]
