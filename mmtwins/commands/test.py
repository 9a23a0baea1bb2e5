"""Evaluate a checkpoint with the config's metrics; the config's default_scope decides which library builds it."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

from ..engine.arguments import (
    add_checkpoint,
    add_config_with_options,
    add_device,
    add_launch,
    config_from,
    readable_errors,
)
from ..engine.devices import hide_gpus
from .parsing import parse, register

EXAMPLE = 'mmtwins test upernet_twins-svt-s_8xb2-160k_ade20k-512x512 iter_160000.pth --show-dir painted'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins test``."""
    add_config_with_options(parser)
    add_checkpoint(parser)
    add_launch(parser)
    add_device(parser)
    parser.add_argument(
        '--out',
        help='write predictions: a folder of PNG files (segmentation) or a .pkl file (others) (default: none)',
    )
    parser.add_argument('--show', action='store_true', help='show pictures of the predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions (default: none are drawn)')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that a window stays open (default: %(default)s)'
    )
    parser.add_argument(
        '--allow-random-heads', action='store_true', help='evaluate heads that the checkpoint lacks with random weights'
    )
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation, as the config defines it')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins test ARGV``."""
    args = parse(__name__, argv)
    hide_gpus(args.device)
    register()
    from ..engine.building import ConfigError, naming_first_steps
    from ..engine.checks import check_checkpoints, check_data
    from ..engine.config_sections import require
    from ..engine.console import quiet_terminal
    from ..engine.evaluation import augment_at_test_time, make_folder, paint_predictions, write_predictions
    from ..engine.runner import build_runner

    with readable_errors():
        cfg = config_from(args)
        require(cfg, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
        cfg.load_from = args.checkpoint
        cfg.resume = False
        if args.show or args.show_dir:
            paint_predictions(cfg, args.show_dir, args.wait_time if args.show else None)
        if args.tta:
            augment_at_test_time(cfg)
        if args.out:
            write_predictions(cfg, args.out)
        check_data(cfg, 'test')
        checkpoints = check_checkpoints(cfg, for_training=False, allow_random_heads=args.allow_random_heads)
        with nullcontext() if args.verbose else quiet_terminal():
            runner = build_runner(cfg, checkpoints)
        if args.out:
            make_folder(args.out)
    # Later errors are rarely mistakes of the user: all but these keep their traceback.
    with readable_errors(OSError, ConfigError), naming_first_steps(runner):
        runner.test()
