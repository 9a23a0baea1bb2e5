"""Is a training on track? Compare its log with the published one, or with the formulae of its recipe.

Exit codes: 0 on track, 1 off track, 2 nothing to compare (no log, no record of training, no config, wrong arguments).
"""

import argparse
import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.analysis.run_check import check_run
from mmtwins.analysis.run_figures import draw_run
from mmtwins.analysis.run_log import read_run
from mmtwins.engine.arguments import readable_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='work directory of a training, such as work_dirs/CONFIG')
    parser.add_argument('--config', help='recipe, instead of the config that MMEngine wrote into the work directory')
    parser.add_argument('--out', metavar='PNG', help='picture to write (default: WORK_DIR/check_run.png)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        with readable_errors():
            report = check_run(read_run(args.work_dir, args.config))
            path = draw_run(report, args.out or Path(args.work_dir) / 'check_run.png')
    except SystemExit as error:
        if isinstance(error.code, int):  # Ctrl-C
            raise
        print(error, file=sys.stderr)
        sys.exit(2)
    for finding in report.findings:
        print(f'{finding.verdict:4}  {finding.subject:13}  {finding.text}')
    print(f'Wrote {path}')
    print(report.sentence)
    sys.exit(not report.on_track)


if __name__ == '__main__':
    main()
