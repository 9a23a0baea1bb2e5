"""Train a segmentor or a detector; the config's default_scope decides which library builds it."""

import argparse

from mmengine.device import get_device

from mmtwins.engine.arguments import config_argument, config_from, launch_arguments, readable_errors
from mmtwins.engine.checks import check_checkpoints, check_data
from mmtwins.engine.runner import build_runner
from mmtwins.engine.start import FROM_SCRATCH, start_from_scratch


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[config_argument(), launch_arguments()])
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint, or from the last one in the work directory',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from random weights instead of ImageNet weights; the published numbers will not come',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = config_from(args)
        if args.amp:
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        if cfg.optim_wrapper.type == 'AmpOptimWrapper' and get_device() == 'cpu':
            cause = '--amp' if args.amp else args.config
            raise ValueError(f'{cause} needs a GPU: MMEngine trains in mixed precision only there')
        if args.auto_scale_lr:
            if 'auto_scale_lr' not in cfg:
                raise ValueError(f'--auto-scale-lr: {args.config} has no auto_scale_lr with a base_batch_size')
            cfg.auto_scale_lr.enable = True
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if args.from_scratch:
            start_from_scratch(cfg)
        check_data(cfg, 'train', 'val')
        runner = build_runner(cfg, check_checkpoints(cfg))
        if args.from_scratch:
            runner.logger.warning(FROM_SCRATCH)
    runner.train()


if __name__ == '__main__':
    main()
