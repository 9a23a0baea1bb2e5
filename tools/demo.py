"""Generate toy scenes, train UPerNet and Mask R-CNN with a small Twins-SVT on them, evaluate, and show the results.

Six to eight minutes on two CPU cores. Interrupted at any point, the same command continues from the last checkpoint.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from rich.console import Console

from mmtwins.demo.tasks import DemoError, Settings, check_installation

ROOT = Path(__file__).resolve().parent.parent


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='results (default: %(default)s)')
    parser.add_argument('--data-root', type=Path, default=Path('data/toy'), help='scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the scenes and of the training (default: %(default)s)')
    parser.add_argument('--fresh', action='store_true', help='delete the results of an earlier run and start over')
    parser.add_argument('--tiny', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup asks to go on without the terminal
            signal.signal(number, stop)
    try:
        check_installation()
        from mmtwins.demo.run import run_demo  # needs what was checked

        settings = Settings(ROOT, args.work_dir, args.data_root, args.seed, args.tiny)
        run_demo(settings, Console(width=None if sys.stdout.isatty() else 110), args.fresh)
    except (DemoError, ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nStopped. The same command continues from the last checkpoint.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
