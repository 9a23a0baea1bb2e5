"""What the demo trains agrees with what it generates."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmtwins.demo import scenes, tasks
from mmtwins.demo.tasks import TASKS, TINY_OPTIONS, DemoError, Settings, check_installation, options_of

ROOT = Path(__file__).resolve().parents[2]


def test_configs_name_the_generated_classes():
    segmentation, detection = (Config.fromfile(ROOT / 'configs/toy' / task.config) for task in TASKS)
    assert tuple(segmentation.classes) == scenes.CLASSES
    assert [tuple(colour) for colour in segmentation.palette] == list(scenes.PALETTE)
    assert tuple(detection.classes) == scenes.THING_CLASSES
    assert [tuple(colour) for colour in detection.palette] == [thing.colour for thing in scenes.THINGS]


def test_options_name_the_data_and_the_seed():
    settings = Settings(ROOT, Path('work'), Path('data/toy'), seed=7)
    assert options_of(TASKS[1], settings) == ['data_root=data/toy/coco', 'randomness.seed=7']
    assert options_of(TASKS[0], Settings(ROOT, Path('w'), Path('d'), tiny=True))[2:] == list(TINY_OPTIONS)


def test_missing_packages_are_all_named(monkeypatch):
    monkeypatch.setattr(tasks.importlib.util, 'find_spec', lambda name: None if name in ('cv2', 'mmseg') else object())
    with pytest.raises(DemoError, match=r'^cv2, mmseg cannot be imported: `make demo`'):
        check_installation()
