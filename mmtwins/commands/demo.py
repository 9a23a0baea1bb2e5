"""Generate toy scenes, train UPerNet and Mask R-CNN with a small Twins-SVT on them, evaluate, and show the results.

It takes six to eight minutes on two CPU cores. If it is interrupted, the same command continues from the last checkpoint.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine.config_names import shipped_folder
from .parsing import parse, register

EXAMPLE = 'mmtwins demo --work-dir work_dirs/demo --seed 1'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins demo``."""
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder for results (default: %(default)s)'
    )
    parser.add_argument(
        '--data-root',
        type=Path,
        default=Path('data/toy'),
        help='folder for the generated scenes (default: %(default)s)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of the scenes and of the trainings (default: %(default)s)'
    )
    parser.add_argument('--fresh', action='store_true', help='delete the results of an earlier run and start over')
    parser.add_argument('--tiny', action='store_true', help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mmtwins demo ARGV``; returns the exit code."""
    args = parse(__name__, argv)
    register()
    from rich.console import Console

    from ..demo.tasks import DemoError, Settings, check_installation

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup lets programs run on without the terminal
            signal.signal(number, stop)
    try:
        check_installation()
        from ..demo.run import run_demo  # needs what was checked

        settings = Settings(shipped_folder(), args.work_dir, args.data_root, args.seed, args.tiny)
        run_demo(settings, Console(width=None if sys.stdout.isatty() else 110), args.fresh)
    except (DemoError, ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nStopped. The same command continues from the last checkpoint.', file=sys.stderr)
        return 130
    return 0
