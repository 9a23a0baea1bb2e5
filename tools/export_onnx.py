"""Export a segmentor, or the backbone of any model, to ONNX, and check the file with ONNX Runtime."""

import argparse

from mmengine.config import DictAction

from mmtwins.engine.launch import ImageSize, load_config, readable_errors
from mmtwins.export import build_exportable, export_onnx, verify_onnx

OTHER_SIZES = ((1, 224, 224), (1, 224, 250), (2, 250, 333))  # no padding of windows, on one axis, on both


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file; none for weights as initialised')
    parser.add_argument('out', help='ONNX file to write')
    parser.add_argument('--backbone', action='store_true', help='only the backbone: images to the maps of its stages')
    parser.add_argument('--dynamic', action='store_true', help='take any batch, height and width')
    parser.add_argument(
        '--size', type=int, nargs='+', action=ImageSize, default=(512, 512), metavar='PIXELS',
        help='height and width, or a side (512)',
    )  # fmt: skip
    parser.add_argument(
        '--verify', action='store_true', help='fail unless ONNX Runtime agrees, with --dynamic on other sizes too'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override values of the config'
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
        export_onnx(model, args.out, height, width, channels, args.dynamic)
        print(f'written to {args.out}')
        if args.verify:
            sizes = [(1, height, width), *(OTHER_SIZES if args.dynamic else ())]
            shapes = [(batch, channels, *size) for batch, *size in sizes]
            for shape, difference in verify_onnx(model, args.out, shapes):
                print(f'{" x ".join(map(str, shape))}: largest relative difference {difference:.1e}')


if __name__ == '__main__':
    main()
