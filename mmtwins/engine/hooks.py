"""Hooks that the configs and tools put into MMEngine's Runner."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..weights.applying import fit_file
from ..weights.fitting import has_one_backbone
from ..weights.reporting import log_fit


@HOOKS.register_module()
class FitCheckpointHook(Hook):
    """Fit the checkpoint of ``load_from`` or ``resume`` to the model, and log what was made of it."""

    priority = 'VERY_HIGH'  # before hooks that expect a state dict in what they are given

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the weights in ``checkpoint``; raises ValueError as :func:`mmtwins.weights.applying.fit_file`."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        expected = model.state_dict()
        if not has_one_backbone(expected):
            return  # each backbone checks what it gets
        fit = fit_file(checkpoint, expected)
        if 'state_dict' not in checkpoint:
            checkpoint.clear()
        # The model's own values stand for what is left as it is, so that MMEngine misses nothing.
        checkpoint['state_dict'] = {**expected, **fit.weights}
        log_fit(fit)


@HOOKS.register_module()
class CheckBatchSizeHook(Hook):
    """Log a warning at the start of training if nothing scales a learning rate that is for another number of images.

    That number is ``auto_scale_lr.base_batch_size`` in the config; what it is compared with is GPUs x images per GPU x
    iterations of gradient accumulation.
    """

    def before_train(self, runner: Runner) -> None:
        scaling = runner.cfg.get('auto_scale_lr') or {}
        expected = scaling.get('base_batch_size')
        loader = runner.cfg.train_dataloader
        images = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size') or 1
        accumulated = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
        total = runner.world_size * images * accumulated
        if expected is None or scaling.get('enable') or total == expected:
            return
        accumulation = f' x {accumulated} accumulated iterations' if accumulated > 1 else ''
        runner.logger.warning(
            f'{runner.world_size} GPU(s) x {images} image(s){accumulation} = {total} a step, but the learning rate is for '
            f'{expected} (auto_scale_lr.base_batch_size). Scale it by {total / expected:g}: with --auto-scale-lr, or with '
            '--cfg-options auto_scale_lr.enable=True'
        )
