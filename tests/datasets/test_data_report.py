"""The report as text, JSON and exit code."""

import json
from pathlib import Path

import pytest

from mmtwins.datasets.data_report import Report, SourceReport
from mmtwins.datasets.findings import Finding


def make_report(errors: int, warnings: int) -> Report:
    found = [Finding('schema', True, 'a.json', f'fault {i}', 'Mend it') for i in range(errors)]
    found += [Finding('box-twice', False, 'a.json', 'twice', 'Remove one', ('x',), 3) for _ in range(warnings)]
    shares = {f'c{i}': i / 100 for i in range(12)}
    first = SourceReport('train: t', 'a.json', dict(images=1234, ignored='5.0%'), found, shares)
    return Report([first, SourceReport('val: v', 'b')])


def test_the_text() -> None:
    assert make_report(1, 1).text.splitlines() == [
        'train: t (a.json)',
        '  1,234 images, ignored 5.0%',
        '  c11 11.0%, c10 10.0%, c9 9.0%, c8 8.0%, c7 7.0%, c6 6.0%, c5 5.0%, c4 4.0%, c3 3.0%, c2 2.0% and 2 more',
        '  error   [schema] a.json: fault 0. Mend it',
        '  warning [box-twice] a.json: twice (x and 2 more). Remove one',
        '',
        'val: v (b)',
        '  nothing could be counted',
        '  nothing wrong',
        '',
        '1 error and 1 warning',
    ]
    assert Report([], fast=True).text == 'no errors and no warnings in a sample of the images'


@pytest.mark.parametrize(
    ('errors', 'warnings', 'code', 'strict'), [(0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 1, 1), (2, 2, 1, 1)]
)
def test_exit_codes(errors: int, warnings: int, code: int, strict: int) -> None:
    report = make_report(errors, warnings)
    assert (report.exit_code(), report.exit_code(strict=True)) == (code, strict)
    assert (len(report.errors), len(report.warnings)) == (errors, warnings)


def test_errors_can_be_raised() -> None:
    make_report(0, 3).raise_errors()
    with pytest.raises(ValueError) as raised:
        make_report(5, 1).raise_errors()
    assert str(raised.value).splitlines() == [
        'the data cannot be trained on',
        *(f'a.json: fault {i}. Mend it' for i in range(3)),
        '2 more: run `mmtwins check-data`',
    ]


def test_json_keeps_everything(tmp_path: Path) -> None:
    report = make_report(2, 1)
    path = report.save(tmp_path / 'new' / 'report.json')
    assert Report.from_dict(json.loads(path.read_text())) == report
