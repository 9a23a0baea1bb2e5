"""Is a training on track? Compare its log with the published one, or with the formulae of its recipe.

Exit codes: 0 on track, 1 off track, 2 nothing to compare (no log, no record of training, no config, wrong arguments).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine.arguments import readable_errors
from .parsing import parse, register

EXAMPLE = 'mmtwins check-run work_dirs/upernet_twins-svt-s_8xb2-160k_ade20k-512x512'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins check-run``."""
    parser.add_argument('work_dir', help='work directory of a training, such as work_dirs/CONFIG')
    parser.add_argument(
        '--config', help='name or file of the recipe (default: the config that MMEngine wrote into the work directory)'
    )
    parser.add_argument('--out', metavar='PNG', help='file for the picture (default: WORK_DIR/check_run.png)')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins check-run ARGV``."""
    args = parse(__name__, argv)
    register()
    from ..analysis.run_check import check_run
    from ..analysis.run_figures import draw_run
    from ..analysis.run_log import read_run
    from ..engine.config_names import find_config

    try:
        with readable_errors():
            report = check_run(read_run(args.work_dir, args.config and find_config(args.config)))
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
