"""Check the data of a config before training: annotation files, label images and images, with a report and pictures.

Exit codes: 0 nothing wrong, or warnings only; 1 errors in the data, or a config that cannot be read; 2 wrong arguments.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.datasets.checking import check_datasets, report_on
from mmtwins.datasets.data_sources import SPLITS
from mmtwins.datasets.findings import ALLOWABLE
from mmtwins.datasets.passes import Pass
from mmtwins.datasets.picture import draw_picture
from mmtwins.engine.arguments import config_argument, readable_errors
from mmtwins.engine.config import load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[config_argument()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS, help='data to check (default: all)')
    parser.add_argument('--fast', action='store_true', help='look at a sample of the images only, as before a training')
    parser.add_argument(
        '--allow',
        nargs='+',
        default=[],
        metavar='CODE',
        help=f'faults that are right as they are: {", ".join(ALLOWABLE)}',
    )
    parser.add_argument('--strict', action='store_true', help='count warnings as errors')
    parser.add_argument('--out', type=Path, help='folder for report and pictures (default: work_dirs/CONFIG NAME/data)')
    parser.add_argument(
        '--workers', type=int, metavar='N', help='processes that read images (default: one for each core)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
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


if __name__ == '__main__':
    main()
