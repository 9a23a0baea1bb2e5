"""Train and evaluate an arm with one seed; a training that was stopped goes on from its last checkpoint."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..engine.config import load_config
from ..engine.console import silence_libraries
from ..engine.runner import build_runner
from ..engine.work_dir import locked_work_dir, resume_if_possible
from ..kept_results import Result, keep_result
from .arms import backbone_of
from .map_files import generate_maps

CONFIG = 'segformer-head_twins-svt-toy_1xb8-300iters_toy-maps-256x256'
SECONDS = 'processor_seconds'  # in MMEngine's message hub, and so in checkpoints


@dataclass(frozen=True)
class Study:
    """What is done alike for all arms.

    Args:
        work_dir: Folder of maps, logs and checkpoints.
        results: Folder of the results, a JSON file each.
        iterations: Of each training, in batches of the config.
        finetuning: Iterations of fine-tuning a trained model with other windows.
        num_train: Maps for training.
        num_val: Maps for validation.
        size: Side of a map, in pixels.
        options: Changes to the config, as ``--cfg-options``.
    """

    work_dir: Path
    results: Path
    iterations: int = 300
    finetuning: int = 100
    num_train: int = 2400
    num_val: int = 100
    size: int = 256
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def data_root(self) -> Path:
        """Folder of the maps."""
        return self.work_dir / 'maps'


def prepare(study: Study, progress: Any = None) -> None:
    """Generate the maps of a study, unless they are there."""
    study.work_dir.mkdir(parents=True, exist_ok=True)
    study.results.mkdir(parents=True, exist_ok=True)
    generate_maps(study.data_root, num_train=study.num_train, num_val=study.num_val, size=study.size, progress=progress)


class StopwatchHook(Hook):
    """Add up the processor time of a training over all its interruptions, in seconds."""

    def before_train(self, runner: Runner) -> None:
        """Go on from what the checkpoint holds."""
        self._start = time.process_time() - runner.message_hub.runtime_info.get(SECONDS, 0.0)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        runner.message_hub.update_info(SECONDS, time.process_time() - self._start)


def config_of(study: Study, arm: str, seed: int) -> Config:
    """The config of one training.

    Args:
        study: What is done alike for all arms.
        arm: A key of :data:`mmtwins.study.arms.ARMS`.
        seed: Of the training; all arms see the same maps.

    Returns:
        The whole config, with ``work_dir`` and ``launcher``.
    """
    cfg = load_config(CONFIG, dict(study.options) | dict(data_root=str(study.data_root)))
    cfg.custom_imports.imports = ['mmtwins', 'mmtwins.study.local_attention']
    arch = {key: tuple(values) for key, values in cfg.model.backbone.arch.items()}
    cfg.model.backbone = backbone_of(arm, arch, study.size)
    cfg.model.data_preprocessor.size = (study.size, study.size)
    cfg.default_hooks.pictures = None
    cfg.log_level = 'WARNING'
    cfg.randomness = dict(seed=seed)
    cfg.launcher = 'none'
    set_length(cfg, study.iterations)
    cfg.work_dir = str(study.work_dir / 'runs' / f'{arm}_seed-{seed}_{fingerprint(cfg)}')
    return cfg


def set_length(cfg: Config, iterations: int) -> None:
    """Let a config train for so many iterations: a short warm-up and a cosine to 0, four validations."""
    cfg.train_cfg.update(max_iters=iterations, val_interval=max(iterations // 4, 1))
    *warm_up, cosine = cfg.param_scheduler
    cosine.begin = min(cosine.begin, iterations // 10)
    cosine.update(T_max=iterations - cosine.begin, end=iterations)
    for scheduler in warm_up:
        scheduler.end = cosine.begin
    if not cosine.begin:
        cfg.param_scheduler = [cosine]


def fingerprint(cfg: Config) -> str:
    """Eight digits that differ where a config trains anything else; folders and the amount of logs do not matter."""
    content = {key: value for key, value in cfg.to_dict().items() if key not in ('work_dir', 'resume', 'load_from')}
    text = json.dumps(content, sort_keys=True, default=str).replace(str(cfg.get('data_root')), 'DATA')
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run(cfg: Config) -> Runner:
    """Train a config to its end, from its newest checkpoint if there is one.

    Args:
        cfg: The whole config; ``load_from`` is what it begins with where there is no checkpoint.

    Returns:
        The Runner after the training.
    """
    silence_libraries()
    resume_if_possible(cfg)
    with locked_work_dir(cfg.work_dir):
        runner = build_runner(cfg)
        runner.register_hook(StopwatchHook())
        runner.train()
    return runner


def evaluate(runner: Runner) -> float:
    """The mIoU of a Runner's model on its maps for validation, 0 to 1."""
    return round(float(runner.val()['mIoU']) / 100, 4)


def final_checkpoint(study: Study, seed: int, arm: str = 'k7') -> Path:
    """Where the last checkpoint of a training lies, or will lie."""
    return Path(config_of(study, arm, seed).work_dir, f'iter_{study.iterations}.pth')


def train(study: Study, arm: str, seed: int, only_kept: bool = False) -> Result | None:
    """Train and evaluate an arm with one seed, or give the result that an earlier call has kept.

    Args:
        study: What is done alike for all arms.
        arm: A key of :data:`mmtwins.study.arms.ARMS`.
        seed: Of the training.
        only_kept: Train nothing.

    Returns:
        ``arm``, ``seed``, ``iterations``, ``mIoU`` (0 to 1), ``processor_seconds`` of the training and ``fingerprint`` of its
        config; None if there is none, with ``only_kept``.
    """
    cfg = config_of(study, arm, seed)
    about = dict(arm=arm, seed=seed, iterations=study.iterations, fingerprint=fingerprint(cfg))

    def measure() -> Result:
        runner = run(cfg)
        seconds = runner.message_hub.get_info(SECONDS)
        return about | dict(mIoU=evaluate(runner), processor_seconds=round(seconds, 1))

    def is_outdated(known: Result) -> bool:
        return known['fingerprint'] != about['fingerprint']

    found = keep_result(study.results / f'train_{arm}_seed-{seed}.json', measure, is_outdated, only_kept)
    return None if found is None or is_outdated(found) else found
