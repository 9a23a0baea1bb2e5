"""`mmtwins cost CONFIG`: parameters, MACs and activations of the model, per module."""

import argparse
import json
import sys
from pathlib import Path

from ..engine.arguments import readable_errors
from .bars import stepping


def add_arguments(parser: 'argparse._ActionsContainer') -> None:
    """Add the arguments of ``mmtwins cost`` with a config."""
    parser.add_argument('--depth', type=int, default=2, help='levels of modules in the table (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the costs of all modules to this file (default: none)')
    parser.add_argument(
        '--num-proposals',
        type=int,
        default=1000,
        help='regions for the RoI head of a two-stage detector (default: %(default)s)',
    )


def show(args: argparse.Namespace) -> None:
    """Count and print; mistakes of the user end the program with a message.

    Args:
        args: Arguments of ``mmtwins cost``.
    """
    from rich.console import Console

    from ..analysis.counting import CONVENTION, build_model, count
    from ..engine.config import load_config

    with readable_errors():
        cfg = load_config(args.config, args.cfg_options)
        with stepping('counting', 2) as step:
            model = build_model(cfg)
            step()
            height, width = args.size
            complexity = count(model, height, width, num_proposals=args.num_proposals)
            step()
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
