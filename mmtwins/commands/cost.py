"""With a config: parameters, MACs and activations of its model, per module; needs neither weights nor a GPU.

Without one: the cost of local and of global sub-sampled attention by window side k, and what calibrated windows save.
"""

import argparse
import sys
from collections.abc import Sequence

from ..engine.arguments import add_config, add_device, add_options, image_size
from . import attention_cost, model_cost
from .parsing import parse, refuse, register

TOOLS = ('gsa_cost.py',)
EXAMPLE = 'mmtwins cost upernet_twins-svt-s_8xb2-160k_ade20k-512x512 --size 512x512 --depth 1'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins cost``."""
    add_config(parser, nargs='?', help='name of a recipe, or config file (default: only the attention of Twins-SVT)')
    parser.add_argument(
        '--size',
        type=image_size,
        metavar='HxW',
        help='image size in pixels; required with a config (default: 224x224 without one)',
    )
    add_options(parser)
    model_cost.add_arguments(parser.add_argument_group('with a config'))
    group = parser.add_argument_group('without a config')
    attention_cost.add_arguments(group)
    add_device(group, 'cpu')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins cost ARGV``."""
    args = parse(__name__, argv)
    if args.config is not None:
        if args.size is None:
            refuse(__name__, f'{args.config} needs the size of an image: give --size HxW, such as 512x512')
        if args.measure or args.compare is not None or args.update or args.front or args.subsampling:
            names = '--measure, --compare, --update, --front and --subsampling'
            refuse(__name__, f'{names} are for the cost of attention: leave the config out')
        register()
        model_cost.show(args)
        return
    if args.cfg_options or args.json:
        refuse(__name__, '--cfg-options and --json are for the cost of a model: give a config')
    if args.k < 1:
        refuse(__name__, f'--k {args.k}: give a side of at least 1 token')
    if args.update and args.compare is None:
        refuse(__name__, '--update goes with --compare')
    if args.front and (args.compare is not None or args.measure):
        refuse(__name__, '--front counts for one --size: leave --compare and --measure out')
    args.size = args.size or (224, 224)
    register()
    attention_cost.show(args)


def main_of_model(argv: Sequence[str] | None = None) -> None:
    """Run ``tools/get_complexity.py ARGV``: the config is required there."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not {'-h', '--help'} & set(argv) and parse(__name__, argv).config is None:
        refuse(__name__, 'the following arguments are required: config')
    main(argv)


def main_of_attention(argv: Sequence[str] | None = None) -> None:
    """Run ``tools/gsa_cost.py ARGV``: there is no config there."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not {'-h', '--help'} & set(argv) and (config := parse(__name__, argv).config) is not None:
        refuse(__name__, f'unrecognized arguments: {config}')
    main(argv)
