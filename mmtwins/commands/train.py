"""Train a segmentor, a detector or a classifier; the config's default_scope decides which library builds it."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from ..engine.arguments import add_config_with_options, add_device, add_launch, config_from, readable_errors
from ..engine.devices import hide_gpus
from .parsing import parse, register

if TYPE_CHECKING:
    from mmengine.config import Config

TRACKERS = ('tensorboard', 'wandb')  # those of mmtwins.engine.tracking, without its import of torch
EXAMPLE = (
    'mmtwins train upernet_twins-svt-s_8xb2-160k_ade20k-512x512 --cfg-options data_root=ADEChallengeData2016 --dry-run'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins train``."""
    add_config_with_options(parser)
    add_launch(parser)
    add_device(parser)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (default: as the config says)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size (default: as the config says)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint, or from the newest whole one in the work directory, if there is one '
        '(default: start from the beginning)',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from random weights instead of ImageNet weights; this does not reproduce the published results',
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
        help='also report curves, pictures and config to this tracker; may be given twice (default: to none)',
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins train ARGV``."""
    args = parse(__name__, argv)
    hide_gpus(args.device)
    register()
    from mmengine.dist import is_main_process

    from ..engine.building import ConfigError, naming_first_steps
    from ..engine.checks import check_checkpoints, check_data
    from ..engine.config_sections import require
    from ..engine.console import describe_end, quiet_terminal
    from ..engine.distributed import is_first_process
    from ..engine.dry_run import dry_work_dir, prepare_dry_run
    from ..engine.preflight import announce
    from ..engine.runner import build_runner
    from ..engine.start import FROM_SCRATCH, start_from_scratch
    from ..engine.tracking import track
    from ..engine.work_dir import locked_work_dir, resume_if_possible

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
            elif cfg.launcher == 'none':  # otherwise the process that writes locks it, once the processes are connected
                stack.enter_context(locked_work_dir(cfg.work_dir))
            with nullcontext() if args.verbose else quiet_terminal():
                runner = build_runner(cfg, checkpoints, notes)
            announce(runner, preflight)
            track(runner, [] if args.dry_run else args.track)
            if args.from_scratch:
                runner.logger.warning(FROM_SCRATCH)
            if args.dry_run:
                prepare_dry_run(runner)
        # Later errors are rarely mistakes of the user: all but these keep their traceback.
        hint = '' if args.dry_run else 'The same command with --resume continues from the newest checkpoint.'
        with readable_errors(OSError, ConfigError, hint=hint), naming_first_steps(runner):
            runner.train()
        if is_main_process() and not args.dry_run:
            print(describe_end(runner))


def check_ahead(cfg: 'Config', args: argparse.Namespace, checkpoints: dict[str, dict]) -> Any:
    """Check data and disk, and collect what is worth knowing before the first iteration.

    Args:
        cfg: Config of the training.
        args: Arguments of ``mmtwins train``.
        checkpoints: Checkpoints that the training starts from, see ``mmtwins.engine.checks.check_checkpoints``.

    Returns:
        What :func:`mmtwins.engine.preflight.announce` prints.

    Raises:
        ValueError: The data has errors, or there is no room for a checkpoint.
    """
    from ..analysis.recipe import find_published_run
    from ..datasets.checking import check_before_training
    from ..engine.building import naming_config
    from ..engine.preflight import look_ahead

    report = check_before_training(cfg, 'train', 'val')
    report.raise_errors()
    run = find_published_run(cfg)
    with naming_config(cfg):
        return look_ahead(cfg, checkpoints, report, args.from_scratch, run.name if run else None)


def check_optimizer(cfg: 'Config', args: argparse.Namespace) -> None:
    """Apply ``--amp`` and ``--auto-scale-lr`` to a config, in place.

    Args:
        cfg: Config of the training.
        args: Arguments of ``mmtwins train``.

    Raises:
        ValueError: Mixed precision needs a GPU and there is none, or the config has no ``auto_scale_lr``.
    """
    from mmengine.device import get_device

    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        cause, remedy = '--amp' if args.amp else args.config, ''
        if not args.amp and 'loss_scale' not in cfg.optim_wrapper:
            remedy = '; --cfg-options optim_wrapper.type=OptimWrapper trains in float32'
        raise ValueError(f'{cause} needs a GPU: MMEngine trains in mixed precision only there{remedy}')
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise ValueError(f'--auto-scale-lr: {args.config} has no auto_scale_lr with a base_batch_size')
        cfg.auto_scale_lr.enable = True
