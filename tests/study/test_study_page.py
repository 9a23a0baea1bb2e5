"""The section of docs/gsa.md: tables and charts say what was kept."""

from pathlib import Path

import matplotlib.image
import pytest

pytest.importorskip('mmseg')

from mmtwins.study.study_page import Findings, draw_study, read_findings, study_section, write_page


def test_the_section_has_the_kept_numbers(tiny_study) -> None:
    study = tiny_study[0]
    findings = read_findings(study, ['k7', 'calibrated', 'lsa'], [0, 1])
    assert set(findings.trained) == {'k7'} and set(findings.changed) == {'windows-4'}
    findings = Findings(
        dict(k7=[dict(mIoU=m, fingerprint='a', seed=i, processor_seconds=1800) for i, m in enumerate((0.8, 0.9))],
             calibrated=[dict(mIoU=m, fingerprint='a', seed=i, processor_seconds=1800) for i, m in enumerate((0.8, 0.9))]),
        {'windows-4': [dict(before=0.5, after=0.75, fingerprint='b', seed=0, processor_seconds=3600)]},
        None,
    )  # fmt: skip
    text = study_section(study, findings, 'python tools/study_gsa.py', 'gsa')
    assert '| k = 7 | 7 7 7 7 | 8 4 2 1 | 0.850 (0.800 to 0.900) |' in text
    assert '| 4 4 4 4 | 8 4 2 1 | 0.500 (0.500 to 0.500) | 0.750 (0.750 to 0.750) |' in text
    assert 'took 2.0 hours' in text  # a training that counts for two arms counts once


def test_costs_are_shown_where_they_were_measured(tiny_study) -> None:
    study = tiny_study[0]
    work = dict(seconds=0.02, spread=0.001, bytes=8_000_000, batch=2)
    machine = dict(threads=1, device='a CPU', torch='2.1')
    cost = dict(machine=machine, arms=dict(k7=dict(parameters=1_500_000, macs=250e6, training=work, inference=work)))
    findings = read_findings(study, ['k7'], [0])._replace(cost=cost)
    text = study_section(study, findings, 'a command', 'gsa')
    assert '| 0.250 | 1.500 | 20.0 | 4 | 20.0 | 4 |' in text
    assert 'Measured with 1 thread on a CPU, torch 2.1, float32.' in text


def test_pictures_are_drawn_and_a_page_gets_a_section_once(tiny_study, tmp_path: Path) -> None:
    study = tiny_study[0]
    draw_study(study, read_findings(study, ['k7'], [0]), tmp_path)
    for name in ('accuracy.png', 'maps.png'):
        assert matplotlib.image.imread(tmp_path / name).std() > 0.05
    page = tmp_path / 'page.md'
    page.write_text('# Title\n')
    for text in ('first', 'second'):
        write_page(page, text)
    assert page.read_text() == (
        '# Title\n\n## What windows do to accuracy\n\n<!-- study: begin -->\nsecond\n<!-- study: end -->\n'
    )
