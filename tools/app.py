"""Serve a local page for a trained model: drop an image, see the prediction, click a point, see what it attends to."""

import argparse
import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.engine.arguments import checkpoint_argument, config_argument, device_argument, readable_errors
from mmtwins.inference.predictor import Predictor
from mmtwins.page.controls import build_app
from mmtwins.page.serving import serve


def parse_args() -> argparse.Namespace:
    parents = [config_argument(), checkpoint_argument(), device_argument()]
    parser = argparse.ArgumentParser(description=__doc__, parents=parents)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (default: %(default)s, this machine only); 0.0.0.0 lets the whole network in',
    )
    parser.add_argument('--port', type=int, default=7860, help='port to listen on (default: %(default)s)')
    parser.add_argument(
        '--max-megabytes', type=float, default=20, help='largest file that can be uploaded (default: %(default)s)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out instances with a lower score at first (default: %(default)s)',
    )
    parser.add_argument('--examples', metavar='FOLDER', help='images to try the page with (default: generated scenes)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        if not 0 < args.port < 65536 or args.max_megabytes <= 0:
            raise ValueError(
                f'--port {args.port} --max-megabytes {args.max_megabytes:g}: both must be above 0, a port below 65536'
            )
        predictor = Predictor(args.config, args.checkpoint, args.device, args.score_thr, args.cfg_options)
        serve(build_app(predictor, args.examples), args.host, args.port, args.max_megabytes)


if __name__ == '__main__':
    main()
