"""Parameters, MACs and activations of a config's model, per module; needs neither weights nor a GPU."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from rich.console import Console

from mmtwins.analysis.counting import CONVENTION, build_model, count
from mmtwins.engine.arguments import config_argument, image_size, readable_errors
from mmtwins.engine.config import load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[config_argument()])
    parser.add_argument('--size', type=image_size, required=True, metavar='HxW', help='of the image, in pixels')
    parser.add_argument('--depth', type=int, default=2, help='levels of modules in the table (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the costs of all modules to this file')
    parser.add_argument(
        '--num-proposals', type=int, default=1000, help='regions for the RoI head of a two-stage detector (%(default)s)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = load_config(args.config, args.cfg_options)
        complexity = count(build_model(cfg), *args.size, num_proposals=args.num_proposals)
        if args.json:
            path = Path(args.json)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(complexity.to_dict(), indent=2) + '\n')
    total = complexity.total
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(complexity.to_table(args.depth))
    console.print(
        f'Parameters {total.parameters / 1e6:.2f} M, {total.macs / 1e9:.2f} GMACs ({2 * total.macs / 1e9:.2f} GFLOPs), '
        f'activations {total.activations / 1e6:.1f} M'
    )
    console.print(CONVENTION.format(num_proposals=args.num_proposals))


if __name__ == '__main__':
    main()
