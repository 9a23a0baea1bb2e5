"""Check and measure mmtwins on a CUDA GPU, without a network: `make gpu`.

Runs the tests that need a GPU, compares features and gradients with the CPU in each precision, trains the toy segmentor in mixed
precision, and measures time and peak memory of backbone, whole models and attention. Writes JSON, tables and charts into a
folder, and the section GPU of docs/performance.md. A run that was stopped goes on where it was.
"""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmtwins import registration  # noqa: F401, which registers the backbones
from mmtwins.benchmark.gpu_bundle import (
    DONE,
    LEFT_OUT,
    SECTION,
    check_gpu,
    choose_parts,
    measure_in_child,
    measure_part,
    own_command,
    run_parts,
    write_bundle,
)
from mmtwins.benchmark.gpu_page import verdict
from mmtwins.benchmark.gpu_plan import Plan, make_parts
from mmtwins.benchmark.machine import describe_machine
from mmtwins.demo.scenes import draw_scene
from mmtwins.engine.arguments import readable_errors
from mmtwins.markdown import read_section

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp16')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: python tools/gpu_report.py --device cpu --reduced',
    )  # fmt: skip
    parser.add_argument(
        '--device', default='cuda:0', help='such as cuda:0, or cpu, which implies --reduced (default: %(default)s)'
    )
    parser.add_argument('--reduced', action='store_true', help='tiny models and images: a try in seconds')
    parser.add_argument(
        '--precision', nargs='+', choices=PRECISIONS, default=list(PRECISIONS), help='precisions (default: all)'
    )
    parser.add_argument(
        '--only', nargs='+', default=[], metavar='NAME',
        help='measure parts whose names begin so, such as parity or "backbone bf16" (default: all)',
    )  # fmt: skip
    parser.add_argument('--again', action='store_true', help='measure again what an earlier call has measured')
    parser.add_argument(
        '--one-process',
        action='store_true',
        help='quicker, but a part that crashes ends the others (default: a process for each part, but on the CPU)',
    )
    parser.add_argument('--out', default='work_dirs/gpu_report', metavar='FOLDER', help='default: %(default)s')
    parser.add_argument(
        '--page', metavar='FILE',
        help=f'page whose section {SECTION} is written (default: docs/performance.md for a whole report, else none)',
    )  # fmt: skip
    parser.add_argument('--part', help=argparse.SUPPRESS)  # what a process of measure_in_child measures,
    parser.add_argument('--result', help=argparse.SUPPRESS)  # and where it writes this
    return parser.parse_args()


def draw(number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A toy scene as BGR, and its labels without label 0, which is no class."""
    scene = draw_scene(0, 'train', number, size=side)
    return scene.image[..., ::-1], np.where(scene.labels == 0, 255, scene.labels.astype(int) - 1)


def main() -> None:
    args = parse_args()
    with readable_errors(hint='The same command goes on.'):
        device = check_gpu(args.device)
        one_process = args.one_process or device == 'cpu'
        if device != 'cpu' and (
            args.part or one_process
        ):  # else no context, which a GPU for one process would refuse to others
            torch.cuda.set_device(device)
        reduced = args.reduced or device == 'cpu'
        plan = Plan(device, precisions=args.precision)
        parts = make_parts(plan.reduced() if reduced else plan, ROOT, draw)
        if args.part:
            (part,) = [part for part in parts if part.name == args.part]
            Path(args.result).write_text(json.dumps(measure_part(part)))
            return
        page = Path(args.page) if args.page else ROOT / 'docs/performance.md'
        if not args.page and (reduced or not page.exists()):  # an installed package has no docs
            page = None
        if page:
            read_section(page, SECTION)  # before hours of measuring
        chosen = choose_parts(parts, args.only)
        machine = describe_machine(device)
        print(', '.join(f'{name} {value}' for name, value in machine.items()), flush=True)
        folder = Path(args.out)
        measure = partial(measure_in_child, command=own_command(__file__, sys.argv[1:]), folder=folder / 'parts')
        results = []
        for result in run_parts(
            parts, folder / 'parts', machine, measure_part if one_process else measure, chosen, args.again
        ):
            results.append(result)
            how = f'{result["seconds"]:.0f} s' if result.pop('is_new') else 'measured earlier'
            print(f'{result["name"]}: {result["state"]} ({how}) {result["reason"]}'.rstrip(), flush=True)
        command = shlex.join(['python', 'tools/gpu_report.py', *sys.argv[1:]])
        write_bundle(folder, command, machine, results, page)
    print(verdict(results).strip('*'), f'Written to {folder}' + (f' and {page}.' if page else '.'))
    wrong = [result['name'] for result in results if result['state'] not in (DONE, LEFT_OUT)]
    if wrong:
        print(f'To measure again what failed: --again --only {shlex.join(wrong)}')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
