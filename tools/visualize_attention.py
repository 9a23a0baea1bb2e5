"""Draw what points of an image attend to in a trained model: in every stage, inside their window and over the sub-windows."""

import argparse
import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.analysis.attention_figures import draw_attention
from mmtwins.analysis.inspection import inspect_image
from mmtwins.engine.arguments import checkpoint_argument, config_argument, device_argument, readable_errors
from mmtwins.inference.inferencers import load_inferencer


def parse_args() -> argparse.Namespace:
    parents = [config_argument(), checkpoint_argument(), device_argument()]
    parser = argparse.ArgumentParser(description=__doc__, parents=parents)
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--points',
        type=int,
        nargs='+',
        required=True,
        metavar='X Y',
        help='points to look from, in pixels of the image',
    )
    parser.add_argument('--out', help='PNG file to write (default: work_dirs/attention/NAME OF THE IMAGE.png)')
    parser.add_argument('--stages', type=int, nargs='+', metavar='N', help='stages, counted from 1 (default: all)')
    parser.add_argument(
        '--block',
        nargs='+',
        default=['last'],
        metavar='N',
        help='blocks of each stage, counted from 1, or last: the last local and the last global one (default: last)',
    )
    parser.add_argument('--heads', action='store_true', help='draw every head besides their average')
    parser.add_argument('--features', action='store_true', help='draw the output of each stage, reduced to colours')
    args = parser.parse_args()
    if len(args.points) % 2:
        parser.error(f'--points takes pairs of x and y, not {len(args.points)} numbers')
    args.points = list(zip(args.points[::2], args.points[1::2]))
    if args.block == ['last']:
        args.block = 'last'
    elif all(number.isdecimal() for number in args.block):
        args.block = [int(number) for number in args.block]
    else:
        parser.error(f'--block {" ".join(args.block)}: give last, or numbers from 1')
    return args


def main() -> None:
    args = parse_args()
    with readable_errors():
        inferencer = load_inferencer(args.config, args.checkpoint, args.device, args.cfg_options)
        inspection = inspect_image(inferencer, args.image, args.points, args.stages, args.block)
        out = args.out or Path('work_dirs/attention', f'{Path(args.image).stem}.png')
        print(f'Wrote {draw_attention(inspection, out, args.heads, args.features)}')


if __name__ == '__main__':
    main()
