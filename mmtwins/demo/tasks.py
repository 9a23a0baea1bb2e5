"""What the demo needs and trains, and the settings of a run."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path


class DemoError(Exception):
    """What the user is told when the demo cannot go on."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Args:
        root: Folder that has ``configs`` and ``tools``.
        work_dir: Folder of the results.
        data_root: Folder of the scenes.
        seed: Of the scenes and of the training.
        tiny: Whether to run for seconds, which tests the demo itself.
    """

    root: Path
    work_dir: Path
    data_root: Path
    seed: int = 0
    tiny: bool = False


@dataclass(frozen=True)
class Task:
    """A model to train: its config, and what of its evaluation to show (key: label, and factor to 0..1)."""

    name: str
    title: str
    config: str
    data: str
    minutes: float
    metrics: dict[str, tuple[str, float]]


TASKS = (
    Task(
        'segmentation',
        'UPerNet (semantic segmentation)',
        'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py',
        'ade',
        3,
        {'mIoU': ('mIoU', 0.01), 'mAcc': ('mAcc', 0.01), 'aAcc': ('aAcc', 0.01)},
    ),
    Task(
        'detection',
        'Mask R-CNN (instance segmentation)',
        'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco.py',
        'coco',
        2.5,
        {
            'coco/segm_mAP_50': ('mask AP50', 1),
            'coco/segm_mAP': ('mask AP', 1),
            'coco/bbox_mAP_50': ('box AP50', 1),
            'coco/bbox_mAP': ('box AP', 1),
        },
    ),
)
# A run of seconds that tests the demo itself.
TINY_DATA = dict(num_train=16, num_val=6)
TINY_OPTIONS = (
    'train_cfg.max_iters=8',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
    'train_dataloader.batch_size=2',
)


def options_of(task: Task, settings: Settings) -> list[str]:
    """The ``--cfg-options`` of train.py and test.py."""
    tiny = TINY_OPTIONS if settings.tiny else ()
    return [f'data_root={settings.data_root / task.data}', f'randomness.seed={settings.seed}', *tiny]


def check_installation() -> None:
    """Check that all packages that the demo needs are installed.

    Raises:
        DemoError: A package is missing.
    """
    packages = ('cv2', 'matplotlib', 'mmcv', 'mmdet', 'mmseg', 'pycocotools')
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f'{", ".join(missing)} cannot be imported: `make demo` in a checkout sets everything up')
