"""The results of the study that the repository keeps: all of them, and what the page says is what they say."""

from pathlib import Path
from statistics import mean

import pytest

pytest.importorskip('mmseg')

from mmtwins.study.arm_training import Study
from mmtwins.study.arms import ARMS
from mmtwins.study.study_page import Findings, read_findings, study_section
from mmtwins.study.zero_shot import CHANGES

DOCS = Path(__file__).parents[2] / 'docs'
STUDY = Study(Path('work_dirs/study'), DOCS / 'gsa' / 'study')
SEEDS = (0, 1, 2)


@pytest.fixture(scope='module')
def findings() -> Findings:
    return read_findings(STUDY, list(ARMS), SEEDS)


def test_every_arm_and_change_has_three_seeds_and_a_cost(findings: Findings) -> None:
    assert list(findings.trained) == list(ARMS) and list(findings.changed) == list(CHANGES)
    for results in (*findings.trained.values(), *findings.changed.values()):
        assert [result['seed'] for result in results] == list(SEEDS)
    assert findings.cost is not None and {'k7', 'lsa', 'gsa'} < set(findings.cost['arms'])


@pytest.mark.parametrize('arm', ['lsa', 'lsa-32px'])
def test_local_attention_alone_cannot_solve_the_task(findings: Findings, arm: str) -> None:
    k7, local = (mean(result['mIoU'] for result in findings.trained[name]) for name in ('k7', arm))
    assert local <= k7 - 0.15


def test_the_page_shows_the_kept_results(findings: Findings) -> None:
    section = study_section(STUDY, findings, 'python tools/study_gsa.py', 'gsa')
    assert section.strip() in (DOCS / 'gsa.md').read_text()
