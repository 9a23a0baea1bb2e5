"""Train a segmentor or a detector; the config's default_scope decides which library builds it."""

import argparse
import os
import signal
from contextlib import ExitStack, nullcontext

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process

from mmtwins.analysis.recipe import find_published_run
from mmtwins.datasets.checking import check_before_training
from mmtwins.engine.arguments import config_argument, config_from, launch_arguments, readable_errors
from mmtwins.engine.building import ConfigError, naming_config, naming_first_steps
from mmtwins.engine.checks import check_checkpoints, check_data
from mmtwins.engine.config_sections import require
from mmtwins.engine.console import describe_end, quiet_terminal
from mmtwins.engine.distributed import is_first_process
from mmtwins.engine.dry_run import dry_work_dir, prepare_dry_run
from mmtwins.engine.preflight import Preflight, announce, look_ahead
from mmtwins.engine.runner import build_runner
from mmtwins.engine.start import FROM_SCRATCH, start_from_scratch
from mmtwins.engine.tracking import TRACKERS, track
from mmtwins.engine.work_dir import locked_work_dir, resume_if_possible


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[config_argument(), launch_arguments()])
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint, or from the newest whole one in the work directory, if there is one',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from random weights instead of ImageNet weights; the published numbers will not come',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='check everything, train one iteration, validate one batch, and stop; nothing is written',
    )
    parser.add_argument(
        '--track',
        action='append',
        choices=TRACKERS,
        default=[],
        help='report curves, pictures and config there too; may be given twice',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with ExitStack() as stack:
        with readable_errors():
            cfg = config_from(args)
            require(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
            check_optimizer(cfg, args)
            check_data(cfg, 'train', 'val')
            notes: list[str] = []
            if args.resume not in (None, 'auto'):
                cfg.resume, cfg.load_from = True, args.resume
            elif args.resume or (cfg.get('resume') and not cfg.get('load_from')):
                notes = resume_if_possible(cfg)
            if args.from_scratch:
                start_from_scratch(cfg)
            checkpoints = check_checkpoints(cfg)
            preflight = check_ahead(cfg, args, checkpoints) if is_first_process(cfg.launcher) else None
            if args.dry_run:
                stack.enter_context(dry_work_dir(cfg))
            elif cfg.launcher == 'none':  # else the process that writes locks it, once they know each other
                stack.enter_context(locked_work_dir(cfg.work_dir))
            with nullcontext() if args.verbose else quiet_terminal():
                runner = build_runner(cfg, checkpoints, notes)
            announce(runner, preflight)
            track(runner, [] if args.dry_run else args.track)
            if args.from_scratch:
                runner.logger.warning(FROM_SCRATCH)
            if args.dry_run:
                prepare_dry_run(runner)
        # Of what goes wrong later, little is the user's: other errors keep their traceback.
        hint = '' if args.dry_run else 'The same command with --resume continues from the newest checkpoint.'
        with readable_errors(OSError, ConfigError, hint=hint), naming_first_steps(runner):
            runner.train()
        if is_main_process() and not args.dry_run:
            print(describe_end(runner))


def check_ahead(cfg: Config, args: argparse.Namespace, checkpoints: dict[str, dict]) -> Preflight:
    """Check data and disk, and collect what is worth knowing before the first iteration; raises ValueError."""
    report = check_before_training(cfg, 'train', 'val')
    report.raise_errors()
    run = find_published_run(cfg)
    with naming_config(cfg):
        return look_ahead(cfg, checkpoints, report, args.from_scratch, run.name if run else None)


def check_optimizer(cfg: Config, args: argparse.Namespace) -> None:
    """Apply --amp and --auto-scale-lr to a config, in place; raises ValueError where they do not fit."""
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        cause = '--amp' if args.amp else args.config
        raise ValueError(f'{cause} needs a GPU: MMEngine trains in mixed precision only there')
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise ValueError(f'--auto-scale-lr: {args.config} has no auto_scale_lr with a base_batch_size')
        cfg.auto_scale_lr.enable = True


if __name__ == '__main__':
    main()
