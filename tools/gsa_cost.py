"""What local and global sub-sampled attention cost over the window side k, and what calibrated windows save."""

import argparse
import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

import torch
from rich.console import Console

from mmtwins.analysis.comparison import compare_calibrated, comparison_table
from mmtwins.analysis.cost import calibrate
from mmtwins.analysis.cost_figures import draw_attention_idea, draw_comparison, draw_cost_curves
from mmtwins.analysis.cost_report import keys_sentence, report_costs, stages_table
from mmtwins.analysis.timing import measure_blocks, times_table
from mmtwins.benchmark.machine import describe_machine
from mmtwins.engine.arguments import device_argument, image_size, readable_errors
from mmtwins.engine.checks import check_device
from mmtwins.markdown import update_section
from mmtwins.models.backbone import ARCHITECTURES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[device_argument('cpu')])
    parser.add_argument(
        '--size', type=image_size, default='224x224', metavar='HxW', help='of the image, in pixels (%(default)s)'
    )
    parser.add_argument('--arch', choices=list(ARCHITECTURES), default='small', help='Twins-SVT (default: %(default)s)')
    parser.add_argument('--k', type=int, default=7, help='side of windows to compare with (default: %(default)s)')
    parser.add_argument('--out', default='work_dirs/gsa_cost', help='folder for pictures (default: %(default)s)')
    parser.add_argument('--measure', action='store_true', help='time our own blocks over k on this machine too')
    parser.add_argument(
        '--compare',
        type=int,
        nargs='*',
        metavar='SIDE',
        help='instead, compare k = 7 with calibrated windows on square images of these sides (224 512 1024 2048)',
    )
    parser.add_argument('--update', metavar='MARKDOWN', help='write the table of --compare between its markers there')
    args = parser.parse_args()
    if args.k < 1:
        parser.error(f'--k {args.k}: give a side of at least 1 token')
    if args.update and args.compare is None:
        parser.error('--update goes with --compare')
    return args


def show_costs(args: argparse.Namespace) -> None:
    height, width = args.size
    stages = report_costs(args.arch, height, width, args.k)
    calibrated = calibrate(args.arch, height, width)
    measured = [measure_blocks(s, device=args.device) if s.sr_ratio else [] for s in stages] if args.measure else None
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    title = f'Twins-SVT {args.arch}, {height} x {width} pixels; cost k² H W d + H² W² d / k² in MMACs'
    console.print(stages_table(stages, title))
    console.print(keys_sentence(stages))
    console.print(f'Calibrated for this size: {", ".join(f"{name}={values}" for name, values in calibrated.items())}')
    if measured:
        console.print(times_table(stages, measured, f'A local and a global block, forward pass in ms, {args.device}'))
    console.print(f'Wrote {draw_cost_curves(stages, Path(args.out) / "cost.png", measured)}')


def show_comparison(args: argparse.Namespace) -> None:
    rows = compare_calibrated(args.arch, args.compare or [224, 512, 1024, 2048], args.measure, args.device)
    lines = comparison_table(rows)
    if args.measure:
        what = 'Time' if args.device.startswith('cuda') else 'Time: processor time of one thread,'
        lines.append(
            f'{what} median of forward passes of the backbone, one image, float32, '
            f'{describe_machine(args.device)["device"]}, torch {torch.__version__}.'
        )
    text = '\n'.join(lines).rstrip()
    print(text)
    if args.update:
        update_section(args.update, 'comparison', text)
    print(f'Wrote {draw_comparison(rows, Path(args.out) / "comparison.png")}')
    print(f'Wrote {draw_attention_idea(Path(args.out) / "idea.png")}')


def main() -> None:
    args = parse_args()
    with readable_errors():
        check_device(args.device)
        show_costs(args) if args.compare is None else show_comparison(args)


if __name__ == '__main__':
    main()
