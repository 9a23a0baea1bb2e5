"""Time and peak memory of Twins-SVT, ours against mmseg's, mmpretrain's and timm's, whichever is installed."""

import argparse
import json
import shlex
import sys
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from mmtwins.benchmark import measure as benchmark
from mmtwins.benchmark import report
from mmtwins.benchmark.measure import PRECISIONS, WORKS, Task
from mmtwins.benchmark.peers import OURS, PEERS, installed_peers
from mmtwins.engine.launch import readable_errors
from mmtwins.markdown import update_section
from mmtwins.models.backbone import ARCHITECTURES

SIDES = (256, 512, 1024, 1536, 2048)
BATCHES = (1, 2, 4, 8)


def size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    return int(height), int(width or height)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config of a whole model (default: the backbone alone)')
    parser.add_argument('--arch', choices=list(ARCHITECTURES), default='small', help='(default: %(default)s)')
    parser.add_argument('--work', nargs='+', choices=WORKS, default=list(WORKS), help='(default: both)')
    parser.add_argument(
        '--size', type=size, nargs='+', default=[(512, 512), (800, 1344)], metavar='HxW',
        help='image sizes in pixels (default: 512x512 800x1344)',
    )  # fmt: skip
    parser.add_argument('--batch', type=int, nargs='+', default=[1], help='images at once (default: 1)')
    parser.add_argument('--precision', nargs='+', choices=list(PRECISIONS), default=['fp32'], help='(default: fp32)')
    parser.add_argument(
        '--against', nargs='*', choices=[*PEERS, *OURS[1:]], metavar='NAME',
        help=f'out of {", ".join([*PEERS, *OURS[1:]])} (default: what is installed)',
    )  # fmt: skip
    parser.add_argument('--memory', action='store_true', help='measure peak memory too, in a process of its own each')
    parser.add_argument(
        '--grow', choices=['side', 'batch'],
        help=f'instead of --size or --batch, sides {SIDES} or batches {BATCHES}, as a chart',
    )  # fmt: skip
    parser.add_argument('--no-time', action='store_true', help='measure no time')
    parser.add_argument('--profile', action='store_true', help='say where the time of our inference goes')
    parser.add_argument('--rounds', type=int, default=7, help='runs of each, in turn (default: %(default)s)')
    parser.add_argument('--threads', type=int, help='CPU threads (default: as torch chooses)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='(default: %(default)s)')
    parser.add_argument('--out', default='work_dirs/benchmark', help='folder for JSON, tables and charts (%(default)s)')
    parser.add_argument(
        '--update', nargs=2, metavar=('MARKDOWN', 'SECTION'), help='write the tables between its markers there'
    )
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f'--rounds {args.rounds}: a spread needs at least 2')
    if args.threads is not None and args.threads < 1:
        parser.error(f'--threads {args.threads}: give at least 1')
    if args.profile and 'inference' not in args.work:
        parser.error('--profile is of inference: add it to --work')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch sees no GPU here')
    if args.grow == 'side':
        args.size = [(side, side) for side in SIDES]
    if args.grow == 'batch':
        args.batch = list(BATCHES)
    return args


def measure(args: argparse.Namespace, console: Console) -> tuple[list, list, list]:
    names = ['mmtwins', *(installed_peers() if args.against is None else args.against)]
    timings, memory, profiles = [], [], []
    for precision, work, (height, width), batch in product(args.precision, args.work, args.size, args.batch):
        task = Task(work, height, width, batch, precision, args.device, args.arch, args.config)
        fitting = names
        if args.memory or args.grow:
            peaks = {name: benchmark.measure_memory(task, name) for name in names}
            memory.append((task, peaks))
            console.print(report.memory_section(task, peaks).to_table())
            fitting = [name for name in names if peaks[name] is not None]
        if fitting and not args.no_time:
            timings.append(benchmark.measure_time(task, fitting, args.rounds))
            console.print(report.time_section(*timings[-1]).to_table())
        if args.profile and work == 'inference' and 'mmtwins' in fitting:
            profiles.append((task, benchmark.measure_parts(task, args.rounds)))
            console.print(report.parts_section(*profiles[-1]).to_table())
    return timings, memory, profiles


def draw(args: argparse.Namespace, timings: list, memory: list, out: Path) -> None:
    if args.grow:
        panels: dict = {}

        def add(panel: str, name: str, task: Task, value: float) -> None:
            at = task.height if args.grow == 'side' else task.batch
            panels.setdefault(f'{task.work}: {panel}', {}).setdefault(name, {})[at] = value

        for group, _ in timings:
            for timing in group:
                add('seconds per image', timing.implementation, timing.task, timing.median / timing.task.batch)
        for task, peaks in memory:
            for name, peak in peaks.items():
                if peak:
                    add('peak memory (MB)', name, task, peak / 1e6)
        xlabel = 'image side (pixels)' if args.grow == 'side' else 'images at once'
        report.draw_growth(panels, xlabel, out / f'{args.grow}.png')
        return
    if timings:
        times = {str(group[0].task): {t.implementation: t.median * 1e3 for t in group} for group, _ in timings}
        report.draw_bars(times, 'median (ms)', out / 'time.png')
    if memory:
        peaks = {str(task): {name: (peak or 0) / 1e6 for name, peak in values.items()} for task, values in memory}
        report.draw_bars(peaks, 'peak memory (MB)', out / 'memory.png')


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with readable_errors():
        machine = benchmark.describe_machine(args.device)
        console.print(', '.join(f'{name} {value}' for name, value in machine.items()))
        timings, memory, profiles = measure(args, console)
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        command = 'python tools/benchmark.py ' + shlex.join(sys.argv[1:])
        results = report.to_json(timings, memory, profiles)
        results = dict(command=command, machine=machine, **results)
        (out / 'results.json').write_text(json.dumps(results, indent=2) + '\n')
        tables = report.to_markdown(command, machine, timings, memory, profiles)
        (out / 'tables.md').write_text(tables)
        if args.update:
            update_section(*args.update, tables)
        draw(args, timings, memory, out)
    console.print(f'written to {out}')


if __name__ == '__main__':
    main()
