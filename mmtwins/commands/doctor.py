"""Say what works on this machine: versions, mmcv's operators, GPU, caches, commands, and how to get what is missing.

Each trial runs in its own process, so that a broken package is reported and does not end the others.
Exit codes: 0 training and predictions can run, for segmentation, detection or both; 1 they cannot; 2 wrong arguments.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from .examination import examine
from .parsing import parse

EXAMPLE = 'mmtwins doctor --json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins doctor``."""
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins doctor ARGV``; ends with the exit code."""
    args = parse(__name__, argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        report = examine()
    except KeyboardInterrupt:
        print('\nstopped by Ctrl-C.', file=sys.stderr)
        sys.exit(130)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        try:
            from .doctor_report import show

            show(report)
        except Exception:  # rich may be missing or broken too
            print(json.dumps(report, indent=2))
    sys.exit(0 if report['ready'] else 1)
