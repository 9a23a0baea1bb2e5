"""Compare time and peak memory of Twins-SVT with mmseg, mmpretrain and timm, whichever of them is installed.

With ``--whole``, ``--settings`` or ``--pipeline``: whole iterations of a config on real images, and what they wait for.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from ..engine.arguments import add_config, add_device, image_size, readable_errors
from . import whole_benchmark
from .attention_cost import ARCHS
from .bars import follow
from .parsing import parse, refuse, register

SIDES = (256, 512, 1024, 1536, 2048)
BATCHES = (1, 2, 4, 8)
# Those of mmtwins.benchmark.task and mmtwins.benchmark.peers, without their import of torch.
WORKS = ('inference', 'training')
PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp16')
AGAINST = ('mmseg', 'mmpretrain', 'timm', 'mmtwins with_cp', 'mmtwins compiled', 'mmtwins channels-last')
EXAMPLE = 'mmtwins benchmark --size 64x64 --rounds 2 --work inference --against --out benchmark'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins benchmark``."""
    add_config(parser, nargs='?', help='name of a recipe or config file of a whole model (default: the backbone alone)')
    add_device(parser, 'cpu')
    parser.add_argument('--arch', choices=ARCHS, default='small', help='size of Twins-SVT (default: %(default)s)')
    parser.add_argument('--work', nargs='+', choices=WORKS, default=list(WORKS), help='what to measure (default: both)')
    parser.add_argument(
        '--size', type=image_size, nargs='+', default=[(512, 512), (800, 1344)], metavar='HxW',
        help='image sizes in pixels (default: 512x512 800x1344)',
    )  # fmt: skip
    parser.add_argument('--batch', type=int, nargs='+', default=[1], help='batch sizes, in images (default: 1)')
    parser.add_argument(
        '--precision', nargs='+', choices=PRECISIONS, default=['fp32'], help='precisions (default: fp32)'
    )
    parser.add_argument(
        '--against', nargs='*', choices=AGAINST, metavar='NAME',
        help=f'implementations to compare with, out of {", ".join(AGAINST)} (default: those that are installed)',
    )  # fmt: skip
    parser.add_argument('--memory', action='store_true', help='also measure peak memory, each in its own process')
    parser.add_argument(
        '--grow', choices=['side', 'batch'],
        help=f'instead of --size or --batch, sides {SIDES} or batches {BATCHES}, as a chart (default: neither)',
    )  # fmt: skip
    parser.add_argument('--no-time', action='store_true', help='measure no time')
    parser.add_argument('--profile', action='store_true', help='show which operators our time is spent in')
    parser.add_argument(
        '--roofline',
        action='store_true',
        help='show how near our modules come to what the machine can do, at inference',
    )
    parser.add_argument(
        '--rounds', type=int, default=7, help='runs of each implementation, in turn (default: %(default)s)'
    )
    parser.add_argument('--threads', type=int, help='CPU threads (default: as torch chooses)')
    parser.add_argument(
        '--load', type=int, nargs='+', default=[0], metavar='N',
        help='busy processes beside each measurement of time (default: 0)',
    )  # fmt: skip
    parser.add_argument(
        '--out', default='work_dirs/benchmark', help='folder for JSON, tables and charts (default: %(default)s)'
    )
    parser.add_argument(
        '--summary',
        action='store_true',
        help='write one table for all times, with a row for each task, instead of one each',
    )
    parser.add_argument(
        '--update',
        nargs=2,
        metavar=('MARKDOWN', 'SECTION'),
        help='write the tables into this file, between the markers of the section (default: nowhere)',
    )
    whole_benchmark.add_arguments(parser)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; --grow becomes sizes or batches."""
    args = parse(__name__, argv)
    if args.rounds < 2:
        refuse(__name__, f'--rounds {args.rounds}: a spread needs at least 2')
    if args.threads is not None and args.threads < 1:
        refuse(__name__, f'--threads {args.threads}: give at least 1')
    if min(args.load) < 0:
        refuse(__name__, f'--load {min(args.load)}: give 0 or more')
    if 'tf32' in args.precision and not args.device.startswith('cuda'):
        refuse(__name__, f'--precision tf32: {args.device} has no TF32; take fp32, or a GPU with --device cuda')
    if args.summary and args.no_time:
        refuse(__name__, '--summary is of times: leave --no-time out')
    fault = whole_benchmark.find_fault(args)
    if fault:
        refuse(__name__, fault)
    if args.grow == 'side':
        args.size = [(side, side) for side in SIDES]
    if args.grow == 'batch':
        args.batch = list(BATCHES)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins benchmark ARGV``."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    register()
    if whole_benchmark.kind_of(args):
        whole_benchmark.show(args, argv)
        return
    import torch
    from rich.console import Console

    from ..benchmark.charts import draw_measured_growth, draw_measurements
    from ..benchmark.machine import describe_machine
    from ..benchmark.peers import check_installed, installed_peers
    from ..benchmark.report import to_json, to_markdown
    from ..benchmark.suite import run_tasks
    from ..benchmark.task import Task
    from ..engine.checks import check_device
    from ..markdown import update_section

    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with readable_errors():
        check_device(args.device)
        check_installed(args.against or [])
        machine = describe_machine(args.device)
        console.print(', '.join(f'{name} {value}' for name, value in machine.items()))
        names = ['mmtwins', *(installed_peers() if args.against is None else args.against)]
        tasks = [
            Task(work, height, width, batch, precision, args.device, args.arch, args.config, load)
            for precision, work, (height, width), batch, load in product(
                args.precision, args.work, args.size, args.batch, args.load
            )
        ]
        measured = run_tasks(
            follow(tasks, 'measuring', len(tasks)), names, lambda section: console.print(section.to_table()),
            args.rounds, not args.no_time, args.memory or args.grow is not None, args.profile,
            args.roofline,
        )  # fmt: skip
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        command = 'mmtwins benchmark ' + shlex.join(argv)
        results = dict(command=command, machine=machine, **to_json(*measured))
        (out / 'results.json').write_text(json.dumps(results, indent=2) + '\n')
        tables = to_markdown(command, machine, *measured, summary=args.summary)
        (out / 'tables.md').write_text(tables)
        if args.update:
            markdown, section = args.update
            update_section(markdown, section, tables)
        if args.grow:
            draw_measured_growth(measured, args.grow, out)
        else:
            draw_measurements(measured, out)
    console.print(f'written to {out}')
