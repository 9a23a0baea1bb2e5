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
    measured = study_section(study, read_findings(study, ['k7'], [0]), 'a', 'gsa')
    assert '| training (ms) |' not in measured  # the kept costs are those of two arms


def test_costs_are_shown_where_they_were_measured(tiny_study) -> None:
    study = tiny_study[0]
    found = read_findings(study, ['k7', 'lsa'], [0])
    assert found.cost is not None
    row = next(line for line in study_section(study, found, 'a', 'gsa').splitlines() if line.startswith('| k = 7 |'))
    cost = found.cost['arms']['k7']
    assert (
        f'| {cost["macs"] / 1e9:.3f} | {cost["parameters"] / 1e6:.3f} | {cost["training"]["seconds"] * 1e3:.1f} |'
        in row
    )


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
