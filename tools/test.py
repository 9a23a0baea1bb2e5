"""Evaluate a checkpoint with the config's metrics; the config's default_scope decides which library builds it."""

import argparse
import os
import signal
from contextlib import nullcontext

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.engine.arguments import (
    checkpoint_argument,
    config_argument,
    config_from,
    launch_arguments,
    readable_errors,
)
from mmtwins.engine.building import ConfigError, naming_first_steps
from mmtwins.engine.checks import check_checkpoints, check_data
from mmtwins.engine.config_sections import require
from mmtwins.engine.console import quiet_terminal
from mmtwins.engine.evaluation import augment_at_test_time, make_folder, paint_predictions, write_predictions
from mmtwins.engine.runner import build_runner


def parse_args() -> argparse.Namespace:
    parents = [config_argument(), checkpoint_argument(), launch_arguments()]
    parser = argparse.ArgumentParser(description=__doc__, parents=parents)
    parser.add_argument('--out', help='predictions: a folder of PNG (segmentation) or a .pkl file (detection)')
    parser.add_argument('--show', action='store_true', help='show painted predictions in a window')
    parser.add_argument('--show-dir', help='folder for painted predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that a window stays open')
    parser.add_argument(
        '--allow-random-heads', action='store_true', help='evaluate heads that the checkpoint lacks with random weights'
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, as the config defines it')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
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
    # Of what goes wrong later, little is the user's: other errors keep their traceback.
    with readable_errors(OSError, ConfigError), naming_first_steps(runner):
        runner.test()


if __name__ == '__main__':
    main()
