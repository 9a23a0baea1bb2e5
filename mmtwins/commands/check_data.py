"""Check the data of a config before training: annotation files, label images and images, with a report and pictures.

Exit codes: 0 nothing wrong, or warnings only; 1 errors in the data, or a config that cannot be read; 2 wrong arguments.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..datasets.findings import ALLOWABLE
from ..engine.arguments import add_config_with_options, readable_errors
from .parsing import parse, register

SPLITS = ('train', 'val', 'test')
EXAMPLE = 'mmtwins check-data upernet_twins-svt-s_8xb2-160k_ade20k-512x512 --splits train --fast'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins check-data``."""
    add_config_with_options(parser)
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS, help='data to check (default: all)')
    parser.add_argument(
        '--fast',
        action='store_true',
        help='check only a sample of the images, as before a training (default: all of them)',
    )
    parser.add_argument(
        '--allow',
        nargs='+',
        default=[],
        metavar='CODE',
        help=f'errors to count as warnings (default: none): {", ".join(ALLOWABLE)}',
    )
    parser.add_argument('--strict', action='store_true', help='count warnings as errors')
    parser.add_argument('--out', type=Path, help='folder for report and pictures (default: work_dirs/CONFIG NAME/data)')
    parser.add_argument(
        '--workers', type=int, metavar='N', help='processes that read images (default: one for each core)'
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins check-data ARGV``."""
    args = parse(__name__, argv)
    register()
    from ..datasets.checking import check_datasets, report_on
    from ..datasets.passes import Pass
    from ..datasets.picture import draw_picture
    from ..engine.config import load_config

    with readable_errors():
        cfg = load_config(args.config, args.cfg_options)
        out = args.out or Path('work_dirs') / Path(args.config).stem / 'data'
        progress = sys.stderr.isatty()
        options = Pass(fast=True, progress=progress) if args.fast else Pass.whole(args.workers, progress)
        checked = check_datasets(cfg, args.splits, options, args.allow)
        report = report_on(checked, args.fast)
        print(report.text)
        written = [report.save(out / 'report.json')]
        for one in checked:
            drawn = draw_picture(one, out / f'{"-".join(one.source.splits)}-{one.source.key.replace(".", "-")}.png')
            written += [drawn] if drawn else []
        print('written: ' + ', '.join(str(path) for path in written))
    sys.exit(report.exit_code(args.strict))
