"""Export a segmentor, or the backbone of any model, to ONNX, and check the file with ONNX Runtime."""

import argparse
from collections.abc import Sequence

from ..engine.arguments import (
    add_checkpoint,
    add_config_with_options,
    add_device,
    image_size,
    readable_errors,
)
from .bars import stepping
from .parsing import parse, register

OTHER_SIZES = ((1, 224, 224), (1, 224, 250), (2, 250, 333))  # windows need padding on no axis, on one, on both
EXAMPLE = (
    'mmtwins export upernet_twins-svt-s_8xb2-160k_ade20k-512x512 imagenet:svt-small svt-small.onnx --backbone --dynamic'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins export``."""
    add_config_with_options(parser)
    add_checkpoint(parser, '; none exports random weights')
    parser.add_argument('out', help='ONNX file to write')
    add_device(parser, 'cpu')
    parser.add_argument(
        '--backbone',
        action='store_true',
        help='export only the backbone, from images to the maps of its stages (default: the whole segmentor)',
    )
    parser.add_argument(
        '--dynamic', action='store_true', help='accept any batch size, height and width (default: one image of --size)'
    )
    parser.add_argument(
        '--size',
        type=image_size,
        default='512x512',
        metavar='HxW',
        help='size of the image to trace, in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--verify',
        action='store_true',
        help='fail unless ONNX Runtime gives the same results; with --dynamic also for other sizes',
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins export ARGV``."""
    args = parse(__name__, argv)
    register()
    from ..engine.checks import check_device
    from ..engine.config import load_config
    from ..export import build_exportable, describe, export_onnx, verify_onnx

    height, width = args.size
    sizes = [(1, height, width), *(OTHER_SIZES if args.dynamic else ())] if args.verify else []
    with readable_errors():
        device = check_device(args.device)
        cfg = load_config(args.config, args.cfg_options)
        checkpoint = None if args.checkpoint == 'none' else args.checkpoint
        channels = cfg.model.backbone.get('in_channels', 3)
        lines = []
        with stepping('exporting', 2 + len(sizes)) as step:
            model = build_exportable(cfg, checkpoint, args.backbone).to(device)
            step()
            metadata = describe(cfg, model, checkpoint)
            export_onnx(model, args.out, height, width, channels, args.dynamic, metadata)
            step()
            for shape, difference in verify_onnx(model, args.out, [(batch, channels, *size) for batch, *size in sizes]):
                lines.append(f'{" x ".join(map(str, shape))}: largest relative difference {difference:.1e}')
                step()
        print(f'written to {args.out}', *lines, sep='\n')
