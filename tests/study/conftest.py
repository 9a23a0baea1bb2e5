"""A study of seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(scope='package')
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The arm k7, and one change of its windows, trained for three iterations on maps of 64 x 64 pixels."""
    pytest.importorskip('mmseg')
    from mmtwins.study.arm_training import Study
    from mmtwins.study.jobs import all_jobs, run_study

    folder: Path = tmp_path_factory.mktemp('study')
    options = {'train_dataloader.batch_size': 2}
    study = Study(folder / 'work', folder / 'results', 3, 1, num_train=4, num_val=2, size=64, options=options)
    jobs = [job for job in all_jobs(study, ['k7'], [0]) if job.name in ('k7', 'windows-4')]
    reports: list[tuple[int, int]] = []
    before = DefaultScope._instance_dict.copy()
    run_study(study, jobs, [], processes=1, report=lambda *steps: reports.append(steps))
    # What tests/conftest.py does for modules comes too late for the fixture of a package.
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)
    yield study, jobs, reports
