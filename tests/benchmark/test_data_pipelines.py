"""The data pipeline: its transforms one by one, and images per second."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from small_recipes import DETECTOR, write_segmentor

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')
from mmtwins.benchmark import data_pipelines
from mmtwins.benchmark.data_pipelines import measure_pipeline, time_transforms


def test_a_pipeline_is_measured_with_and_without_workers(toy_data: Path, tmp_path: Path) -> None:
    config = write_segmentor(tmp_path)
    found = measure_pipeline(str(config), str(toy_data / 'ade'), 'training', workers=(0, 1), samples=4)
    assert found.images == 8
    names = ['annotation', 'LoadImageFromFile', 'CheckImage', 'LoadAnnotations', 'CheckLabels', 'RandomResize']
    assert list(found.transforms) == [*names, 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion', 'PackSegInputs']
    assert all(seconds > 0 for seconds in found.transforms.values())
    assert found.rates.keys() == {0, 1} and min(found.rates.values()) > 0


def test_the_pipeline_of_a_test_is_another(toy_data: Path) -> None:
    found = measure_pipeline(str(DETECTOR), str(toy_data / 'coco'), 'inference', workers=(), samples=1)
    assert found.images == 4
    assert 'Resize' in found.transforms and 'RandomFlip' not in found.transforms


def test_transforms_are_timed_per_image_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Wait:
        def __init__(self, seconds: float, gives: object = 'data') -> None:
            self.seconds, self.gives = seconds, gives

        def __call__(self, data: object) -> object:
            clock[0] += self.seconds
            return self.gives

    class Dataset:
        pipeline = SimpleNamespace(transforms=[Wait(1.0), Wait(2.0), Wait(3.0, None), Wait(100.0)])

        def __len__(self) -> int:
            return 2

        def get_data_info(self, index: int) -> int:
            return index

    monkeypatch.setattr(data_pipelines.time, 'perf_counter', lambda: clock[0])
    # The third gives up on an image, as a random crop without a box does, so the fourth never runs.
    assert time_transforms(Dataset(), 5) == {
        'annotation': 0.0,
        'Wait': 1.0,
        'Wait 2': 2.0,
        'Wait 3': 3.0,
        'Wait 4': 0.0,
    }

    with pytest.raises(ValueError, match='object has no pipeline of its own: give a config with one plain data set'):
        time_transforms(object(), 1)
