"""The jobs of the study: which there are, and that several processes do them all."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmtwins.study.arm_training import Study, train
from mmtwins.study.jobs import Job, all_jobs, distinct_arms, run_study
from mmtwins.study.zero_shot import CHANGES


def test_arms_with_equal_backbones_are_trained_once_for_every_seed(tmp_path: Path) -> None:
    study = Study(tmp_path, tmp_path)
    assert distinct_arms(study, ['k7', 'calibrated', 'lsa']) == ['k7', 'lsa']
    jobs = all_jobs(study, ['k7', 'calibrated', 'lsa'], [0, 1])
    trainings = [Job('train', name, seed) for seed in (0, 1) for name in ('k7', 'lsa')]
    assert jobs == trainings + [Job('change', name, seed) for seed in (0, 1) for name in CHANGES]
    assert all_jobs(study, ['lsa'], [0]) == [Job('train', 'lsa', 0)]


def test_progress_counts_iterations_and_what_is_kept_is_not_done_again(tiny_study) -> None:
    study, jobs, reports = tiny_study
    assert reports == [(0, 4), (3, 4), (4, 4)]
    again: list[tuple[int, int]] = []
    run_study(study, jobs, [], processes=1, report=lambda *step: again.append(step))
    assert again == [(0, 0)]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tiny_study, tmp_path: Path) -> None:
    study = tiny_study[0]
    other = replace(study, results=tmp_path / 'results', work_dir=tmp_path / 'work')
    reports: list[tuple[int, int]] = []
    jobs = all_jobs(other, ['lsa', 'k7'], [0])[:2]
    run_study(other, jobs, [], processes=2, report=lambda *step: reports.append(step))
    assert reports[0] == (0, 6) and reports[-1] == (6, 6)
    assert train(other, 'k7', 0, only_kept=True)['mIoU'] == train(study, 'k7', 0, only_kept=True)['mIoU']
