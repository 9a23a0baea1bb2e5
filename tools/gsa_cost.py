"""What local and global sub-sampled attention cost over the window side k, and what calibrated windows save."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mmtwins.analysis.cost import calibrate, compare_calibrated, measure_blocks, report_costs
from mmtwins.analysis.cost_figures import draw_attention_idea, draw_comparison, draw_cost_curves
from mmtwins.benchmark.measure import describe_machine
from mmtwins.engine.launch import ImageSize, readable_errors
from mmtwins.inference.inferencers import check_device
from mmtwins.markdown import markdown_table, update_section
from mmtwins.models.backbone import ARCHITECTURES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--input', type=int, nargs='+', action=ImageSize, default=(224, 224), metavar='PIXELS',
        help='height and width, or a side (224)',
    )  # fmt: skip
    parser.add_argument('--arch', choices=list(ARCHITECTURES), default='small', help='Twins-SVT (default: %(default)s)')
    parser.add_argument('--k', type=int, default=7, help='side of windows to compare with (default: %(default)s)')
    parser.add_argument('--out', default='work_dirs/gsa_cost', help='folder for pictures (default: %(default)s)')
    parser.add_argument('--measure', action='store_true', help='time our own blocks over k on this machine too')
    parser.add_argument('--device', default='cpu', help='where to time: cpu, cuda (default: %(default)s)')
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
    height, width = args.input
    stages = report_costs(args.arch, height, width, args.k)
    calibrated = calibrate(args.arch, height, width)
    measured = [measure_blocks(s, device=args.device) if s.sr_ratio else [] for s in stages] if args.measure else None
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    table = Table(
        title=f'Twins-SVT {args.arch}, {height} x {width} pixels; cost k² H W d + H² W² d / k² in MMACs',
        title_justify='left',
    )
    table.add_column('map')
    for title in ('H x W', 'd', 'best k', 'integer', 'least cost', f'at k = {args.k}', 'more', f'keys, k = {args.k}'):
        table.add_column(title, justify='right')
    for title in ('keys, best k', 'sr_ratio', 'keys'):
        table.add_column(title, justify='right')
    for s in stages:
        table.add_row(
            s.title,
            f'{s.height} x {s.width}',
            str(s.dim),
            f'{s.best_k:.2f}',
            str(s.best_integer_k),
            f'{s.best_cost / 1e6:.2f}',
            f'{s.cost / 1e6:.2f}',
            f'{s.cost / s.best_cost - 1:.0%}',
            f'{s.keys[0]} x {s.keys[1]}',
            f'{s.best_keys[0]} x {s.best_keys[1]}',
            str(s.sr_ratio or ''),
            f'{s.sr_keys[0]} x {s.sr_keys[1]}' if s.sr_keys else '',
        )
    console.print(table)
    with_k, with_ratios = ([getattr(s, name) for s in stages[1:]] for name in ('keys', 'sr_keys'))
    rows, columns = min(with_ratios)
    console.print(
        f'The minimum is 2 H W d sqrt(H W), at k = (H W)^(1/4). Sub-windows of {args.k} in every stage would leave '
        f'{", ".join(f"{a} x {b}" for a, b in with_k)} keys; the sub-sampling of the published models, '
        f'{" ".join(str(s.sr_ratio) for s in stages[1:])}, keeps at least {rows} x {columns}: on the '
        'small maps of the later stages keys cost little, and too few of them say too little.'
    )
    console.print(f'Calibrated for this size: {", ".join(f"{name}={values}" for name, values in calibrated.items())}')
    for stage, results in zip(stages, measured or []):
        if results:
            console.print(
                f'{stage.title}, a local and a global block, {args.device}: '
                + ', '.join(f'k = {m.k}: {m.seconds * 1e3:.2f} ms' for m in results)
            )
    console.print(f'Wrote {draw_cost_curves(stages, Path(args.out) / "cost.png", measured)}')


def show_comparison(args: argparse.Namespace) -> None:
    sides = args.compare or [224, 512, 1024, 2048]
    rows = compare_calibrated(args.arch, sides, args.measure, args.device)
    titles = ['image (pixels)', 'setting', 'window_sizes', 'sr_ratios', 'parameters (M)', 'GMACs', 'relative']
    titles += ['time (ms)', 'relative'] if args.measure else []
    cells = []
    for row in rows:
        reference = next(r for r in rows if r.side == row.side)
        cells.append(
            [
                f'{row.side} x {row.side}',
                row.setting,
                ' '.join(map(str, row.window_sizes)),
                ' '.join(map(str, row.sr_ratios)),
                f'{row.parameters / 1e6:.1f}',
                f'{row.macs / 1e9:.2f}',
                f'{row.macs / reference.macs:.2f}',
            ]
        )
        if args.measure:
            cells[-1] += [f'{row.seconds * 1e3:.1f}', f'{row.seconds / reference.seconds:.2f}']
    lines = markdown_table(titles, cells, num_text=4)
    if args.measure:
        name = describe_machine(args.device)['device']
        what = 'Time' if args.device.startswith('cuda') else 'Time: processor time of one thread,'
        lines.append(
            f'{what} median of forward passes of the backbone, one image, float32, {name}, torch {torch.__version__}.'
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
