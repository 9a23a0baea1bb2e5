"""Trained models with other windows and other sub-sampling kernels, before and after a short fine-tuning."""

from typing import Any

from mmengine.config import Config

from ..engine.runner import build_runner
from ..kept_results import Result, keep_result
from .arm_training import SECONDS, Study, config_of, evaluate, final_checkpoint, fingerprint, run, set_length, train

# Changes to the backbone of the arm k7. Kernels of another size are resized by mmtwins.weights.resizing.fit_sr_kernels.
CHANGES: dict[str, dict[str, Any]] = {
    'unchanged': {},
    'windows-4': dict(window_sizes=(4, 4, 4, 4)),
    'windows-8': dict(window_sizes=(8, 8, 8, 8)),
    'windows-14': dict(window_sizes=(14, 14, 14, 8)),
    'ratios-16-8-4-2': dict(sr_ratios=(16, 8, 4, 2)),
    'ratios-6-3-2-1': dict(sr_ratios=(6, 3, 2, 1)),
    'ratios-4-2-1-1': dict(sr_ratios=(4, 2, 1, 1)),
}


def config_of_change(study: Study, change: str, seed: int) -> Config:
    """The config that fine-tunes the trained arm k7 with other windows.

    Args:
        study: What is done alike.
        change: A key of :data:`CHANGES`.
        seed: Of the training and the fine-tuning.

    Returns:
        The whole config; it begins with the weights of the training, at a tenth of its learning rate.
    """
    cfg = config_of(study, 'k7', seed)
    cfg.load_from = str(final_checkpoint(study, seed))
    cfg.model.backbone.update(CHANGES[change])
    cfg.optim_wrapper.optimizer.lr *= 0.1
    set_length(cfg, study.finetuning)
    cfg.train_cfg.val_interval = study.finetuning
    cfg.work_dir = str(study.work_dir / 'runs' / f'{change}_seed-{seed}_{fingerprint(cfg)}')
    return cfg


def change_windows(study: Study, change: str, seed: int, only_kept: bool = False) -> Result | None:
    """Evaluate the trained arm k7 with other windows, fine-tune it and evaluate it again.

    Args:
        study: What is done alike.
        change: A key of :data:`CHANGES`.
        seed: Of the training; the arm is trained first where its last checkpoint is not there.
        only_kept: Compute nothing.

    Returns:
        ``change``, ``seed``, ``before`` and ``after`` as mIoU from 0 to 1, ``processor_seconds`` of the fine-tuning and so on;
        None if there is none, with ``only_kept``.
    """
    cfg = config_of_change(study, change, seed)
    about = dict(change=change, seed=seed, iterations=study.finetuning, fingerprint=fingerprint(cfg))

    def measure() -> Result:
        checkpoint = final_checkpoint(study, seed)
        if not checkpoint.is_file():
            (study.results / f'train_k7_seed-{seed}.json').unlink(missing_ok=True)
        train(study, 'k7', seed)
        begin = cfg.copy()
        begin.work_dir = f'{cfg.work_dir}_before'
        before = evaluate(build_runner(begin))
        runner = run(cfg)
        seconds = runner.message_hub.get_info(SECONDS)
        return about | dict(before=before, after=evaluate(runner), processor_seconds=round(seconds, 1))

    def is_outdated(known: Result) -> bool:
        return known['fingerprint'] != about['fingerprint']

    found = keep_result(study.results / f'change_{change}_seed-{seed}.json', measure, is_outdated, only_kept)
    return None if found is None or is_outdated(found) else found
