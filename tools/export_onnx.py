"""Export a segmentor, or the backbone of any model, to ONNX, and check the file with ONNX Runtime."""

import argparse
import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.engine.arguments import checkpoint_argument, config_argument, image_size, readable_errors
from mmtwins.engine.config import load_config
from mmtwins.export import build_exportable, describe, export_onnx, verify_onnx

OTHER_SIZES = ((1, 224, 224), (1, 224, 250), (2, 250, 333))  # no padding of windows, on one axis, on both


def parse_args() -> argparse.Namespace:
    parents = [config_argument(), checkpoint_argument('; none for weights as initialised')]
    parser = argparse.ArgumentParser(description=__doc__, parents=parents)
    parser.add_argument('out', help='ONNX file to write')
    parser.add_argument('--backbone', action='store_true', help='only the backbone: images to the maps of its stages')
    parser.add_argument('--dynamic', action='store_true', help='take any batch, height and width')
    parser.add_argument(
        '--size', type=image_size, default='512x512', metavar='HxW', help='image to trace, in pixels (%(default)s)'
    )
    parser.add_argument(
        '--verify', action='store_true', help='fail unless ONNX Runtime agrees, with --dynamic on other sizes too'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    height, width = args.size
    with readable_errors():
        cfg = load_config(args.config, args.cfg_options)
        checkpoint = None if args.checkpoint == 'none' else args.checkpoint
        model = build_exportable(cfg, checkpoint, args.backbone)
        channels = cfg.model.backbone.get('in_channels', 3)
        metadata = describe(cfg, model, checkpoint)
        export_onnx(model, args.out, height, width, channels, args.dynamic, metadata)
        print(f'written to {args.out}')
        if args.verify:
            sizes = [(1, height, width), *(OTHER_SIZES if args.dynamic else ())]
            shapes = [(batch, channels, *size) for batch, *size in sizes]
            for shape, difference in verify_onnx(model, args.out, shapes):
                print(f'{" x ".join(map(str, shape))}: largest relative difference {difference:.1e}')


if __name__ == '__main__':
    main()
