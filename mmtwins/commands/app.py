"""Serve a local page for a trained model: drop an image, see the prediction, click a point, see what it attends to."""

import argparse
from collections.abc import Sequence

from ..engine.arguments import add_checkpoint, add_config_with_options, add_device, readable_errors
from .parsing import parse, register

EXAMPLE = 'mmtwins app upernet_twins-svt-s_8xb2-160k_ade20k-512x512 iter_160000.pth --port 7861'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins app``."""
    add_config_with_options(parser)
    add_checkpoint(parser)
    add_device(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: %(default)s, this machine only); 0.0.0.0 opens the page to the network, '
        'without a password',
    )
    parser.add_argument('--port', type=int, default=7860, help='port to listen on (default: %(default)s)')
    parser.add_argument(
        '--max-megabytes', type=float, default=20, help='largest upload, in megabytes (default: %(default)s)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='score threshold that the page starts with, 0 to 1; detectors only (default: %(default)s)',
    )
    parser.add_argument('--examples', metavar='FOLDER', help='folder of example images (default: generated scenes)')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins app ARGV``."""
    args = parse(__name__, argv)
    register()
    from ..inference.predictor import Predictor
    from ..page.controls import build_app
    from ..page.serving import serve

    with readable_errors():
        if not 0 < args.port < 65536 or args.max_megabytes <= 0:
            raise ValueError(
                f'--port {args.port} --max-megabytes {args.max_megabytes:g}: both must be above 0, a port below 65536'
            )
        predictor = Predictor(args.config, args.checkpoint, args.device, args.score_thr, args.cfg_options)
        serve(build_app(predictor, args.examples), args.host, args.port, args.max_megabytes)
