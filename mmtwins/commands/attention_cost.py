"""`mmtwins cost` without a config: the cost of local and global attention by window side k."""

import argparse
import sys
from pathlib import Path

from ..engine.arguments import readable_errors
from ..models.architectures import ARCHITECTURES
from .bars import follow

ARCHS = tuple(ARCHITECTURES)
SUBSAMPLINGS = ('conv', 'separable', 'pool')  # as mmtwins.models.subsampling has them, which imports torch
SIDES = (224, 512, 1024, 2048)


def add_arguments(parser: 'argparse._ActionsContainer') -> None:
    """Add the arguments of ``mmtwins cost`` without a config."""
    parser.add_argument('--arch', choices=ARCHS, default='small', help='size of Twins-SVT (default: %(default)s)')
    parser.add_argument(
        '--k', type=int, default=7, help='window side to compare with, in tokens (default: %(default)s)'
    )
    parser.add_argument('--out', default='work_dirs/gsa_cost', help='folder for pictures (default: %(default)s)')
    parser.add_argument(
        '--measure', action='store_true', help='also time our blocks for each k on this machine (default: only count)'
    )
    parser.add_argument(
        '--compare',
        type=int,
        nargs='*',
        metavar='SIDE',
        help='instead, compare k = 7 with calibrated windows on square images of these sides, in pixels '
        f'(default: {" ".join(map(str, SIDES))})',
    )
    parser.add_argument(
        '--front',
        action='store_true',
        help='instead, list and draw the windows and sub-windows that no others beat in MACs, parameters and keys, and '
        'write all of them into front.json (default: the cost over k)',
    )
    parser.add_argument(
        '--subsampling',
        choices=SUBSAMPLINGS,
        help='how a sub-window becomes one key in calibrated windows (default: conv; with --front all three)',
    )
    parser.add_argument(
        '--update',
        metavar='MARKDOWN',
        help='write the table of --compare into this file, between its markers (default: nowhere)',
    )


def show(args: argparse.Namespace) -> None:
    """Count, measure, print and draw; mistakes of the user end the program with a message.

    Args:
        args: Arguments of ``mmtwins cost``.
    """
    from ..engine.checks import check_device

    with readable_errors():
        check_device(args.device)
        if args.front:
            _show_front(args)
        elif args.compare is None:
            _show_costs(args)
        else:
            _show_comparison(args)


def _show_front(args: argparse.Namespace) -> None:
    import json

    from rich.console import Console

    from ..analysis.cost import pareto_front, setting_of
    from ..analysis.cost_figures import draw_front
    from ..analysis.front_report import front_data, front_table

    height, width = args.size
    kinds = [args.subsampling] if args.subsampling else SUBSAMPLINGS
    fronts = {kind: pareto_front(args.arch, height, width, subsampling=kind) for kind in kinds}
    published = setting_of(args.arch, height, width)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    number = ', '.join(f'{kind} {len(front)}' for kind, front in fronts.items())
    title = f'Twins-SVT {args.arch}, {height} x {width} pixels; some of the settings that no other beats ({number})'
    console.print(front_table(fronts, published, title))
    path = Path(args.out) / 'front.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(front_data(fronts), indent=1) + '\n')
    console.print(f'Wrote {path}')
    console.print(f'Wrote {draw_front(fronts, published, Path(args.out) / "front.png")}')


def _show_costs(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ..analysis.cost import calibrate
    from ..analysis.cost_figures import draw_cost_curves
    from ..analysis.cost_report import keys_sentence, report_costs, stages_table
    from ..analysis.timing import measure_blocks, times_table

    height, width = args.size
    stages = report_costs(args.arch, height, width, args.k)
    calibrated: dict = calibrate(args.arch, height, width, subsampling=args.subsampling or 'conv')
    if args.subsampling:
        calibrated['subsampling'] = repr(args.subsampling)
    measured = None
    if args.measure:
        measured = [
            measure_blocks(stage, device=args.device) if stage.sr_ratio else [] for stage in follow(stages, 'measuring')
        ]
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    title = f'Twins-SVT {args.arch}, {height} x {width} pixels; cost k² H W d + H² W² d / k² in MMACs'
    console.print(stages_table(stages, title))
    console.print(keys_sentence(stages))
    console.print(f'Calibrated for this size: {", ".join(f"{name}={values}" for name, values in calibrated.items())}')
    if measured:
        console.print(times_table(stages, measured, f'A local and a global block, forward pass in ms, {args.device}'))
    console.print(f'Wrote {draw_cost_curves(stages, Path(args.out) / "cost.png", measured)}')


def _show_comparison(args: argparse.Namespace) -> None:
    import torch

    from ..analysis.comparison import compare_calibrated, comparison_table
    from ..analysis.cost_figures import draw_attention_idea, draw_comparison
    from ..benchmark.machine import describe_machine
    from ..markdown import update_section

    rows = []
    for side in follow(args.compare or SIDES, 'comparing'):
        rows += compare_calibrated(args.arch, [side], args.measure, args.device, subsampling=args.subsampling or 'conv')
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
