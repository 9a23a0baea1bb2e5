"""Export a segmentor, or the backbone and neck of any model, for other runtimes, and check the file in its runtime.

The suffix of OUT names the format: .onnx, .xml (OpenVINO), .pt (TorchScript) or .pt2 (torch.export). Nothing is written unless
the file gives the model's results.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..engine.arguments import (
    add_checkpoint,
    add_config_with_options,
    add_device,
    image_size,
    readable_errors,
)
from .bars import stepping
from .parsing import parse, refuse, register

OTHER_SIZES = ((1, 224, 224), (1, 224, 250), (2, 250, 333))  # windows need padding on no axis, on one, on both
SUFFIXES = {'.onnx': 'onnx', '.xml': 'openvino', '.pt': 'torchscript', '.pt2': 'torch-export'}
EXAMPLE = (
    'mmtwins export upernet_twins-svt-s_8xb2-160k_ade20k-512x512 imagenet:svt-small svt-small.onnx --backbone --dynamic'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins export``."""
    add_config_with_options(parser)
    add_checkpoint(parser, '; none exports random weights')
    parser.add_argument('out', help='file to write')
    add_device(parser, 'cpu')
    parser.add_argument(
        '--format',
        choices=[*SUFFIXES.values(), 'onnx-legacy'],
        help="format of the file; onnx-legacy is ONNX by PyTorch's older exporter (default: by the suffix of OUT)",
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        '--backbone',
        action='store_true',
        help='export only the backbone, from images to the maps of its stages (default: the whole segmentor)',
    )
    parts.add_argument(
        '--neck',
        action='store_true',
        help='export only backbone and neck, such as the FPN of a detector (default: off)',
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
        action=argparse.BooleanOptionalAction,
        default=True,
        help='fail unless the runtime gives the same results; with --dynamic also for other sizes',
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='quantise ONNX to 8 bits with the images of --calibrate (default: float32)',
    )
    parser.add_argument(
        '--calibrate',
        nargs='+',
        metavar='IMAGES',
        help='images, folders or patterns: to calibrate --int8 with, or to compare a detector on (default: none)',
    )
    parser.add_argument(
        '--tensorrt',
        action='store_true',
        help='also write a Python script beside OUT that builds a TensorRT engine of the ONNX file (default: off)',
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins export ARGV``."""
    args = parse(__name__, argv)
    format_ = args.format or SUFFIXES.get(Path(args.out).suffix)
    if format_ is None:
        refuse(__name__, f'{args.out}: give --format, or a name that ends in {", ".join(SUFFIXES)}')
    suffix = next(suffix for suffix, name in SUFFIXES.items() if name == format_.removesuffix('-legacy'))
    if Path(args.out).suffix != suffix:
        refuse(__name__, f'{args.out}: a file of --format {format_} must end in {suffix}')
    for option in ('int8', 'tensorrt'):
        if getattr(args, option) and suffix != '.onnx':
            refuse(__name__, f'--{option} needs ONNX: give a name that ends in .onnx')
    if args.int8 and not args.calibrate:
        refuse(__name__, '--int8 needs --calibrate IMAGES: some of the kind that the model will see')
    register()
    from ..engine.checks import check_device
    from ..engine.config import load_config
    from ..export.checked import Plan, export
    from ..export.exportable import build_exportable, describe, is_detector

    height, width = args.size
    with readable_errors():
        device = check_device(args.device)
        cfg = load_config(args.config, args.cfg_options)
        checkpoint = None if args.checkpoint == 'none' else args.checkpoint
        sizes = [(1, height, width), *(OTHER_SIZES if args.dynamic else ())] if args.verify else []
        channels = cfg.model.backbone.get('in_channels', 3)
        plan = Plan(format_, height, width, channels, args.dynamic, tuple(sizes), args.int8)
        if args.calibrate:
            from ..inference.sources import find_sources

            plan = plan._replace(images=tuple(str(path) for given in args.calibrate for path in find_sources(given)))
        with stepping('exporting', 2 + len(sizes) + 2 * args.int8) as step:
            model = build_exportable(cfg, checkpoint, args.backbone, args.neck).to(device)
            if args.calibrate and not args.int8 and not is_detector(model):
                raise ValueError('--calibrate is for --int8, and to compare all of a detector: leave it out')
            step()
            lines = export(model, args.out, plan, describe(cfg, model, checkpoint), args.tensorrt, step)
        print(f'written to {args.out}', *lines, sep='\n')
