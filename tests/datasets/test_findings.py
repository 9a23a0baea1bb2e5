"""What was found, in one line: file, fault, cases, remedy; and what may be allowed."""

import re
from pathlib import Path

import pytest

from mmtwins.datasets import findings
from mmtwins.datasets.findings import ALLOWABLE, Finding, Findings, check_allowed


def test_a_sentence_has_file_fault_cases_and_remedy() -> None:
    found = Findings()
    found.add('image-size', 'a.json', '7 images are wrong', 'Mend them', cases=[f'{i}.jpg' for i in range(7)])
    (one,) = found.finish()
    assert one.sentence == 'a.json: 7 images are wrong (0.jpg; 1.jpg; 2.jpg; 3.jpg; 4.jpg and 2 more). Mend them'
    assert one.count == 7 and one.is_error


def test_errors_come_first_and_allowed_ones_are_warnings() -> None:
    found = Findings(frozenset({'box-outside', 'schema'}))
    for code in ('box-outside', 'box-format', 'schema'):
        found.add(code, 'a', 'text', 'Mend it.')
    assert [(one.code, one.is_error) for one in found.finish()] == [
        ('box-format', True),
        ('schema', True),  # what fails later cannot be allowed
        ('box-outside', False),
    ]
    assert found.finish()[0].sentence.endswith('If they are right as they are: --allow box-format.')
    assert '--allow' not in found.finish()[2].sentence


def test_foreign_text_is_one_printable_line() -> None:
    found = Findings()
    found.add('file', 'a', 'name', 'remedy', cases=['\x1b[31mred\n' + 'x' * 500])
    (case,) = found.finish()[0].cases
    assert case.startswith('\\x1b[31mred\\x0a') and case.endswith('...') and len(case) == 200


def test_findings_survive_json() -> None:
    one = Finding('code', True, 'path', 'text', 'remedy', ('a', 'b'), 9)
    assert Finding.from_dict(one.to_dict()) == one


def test_only_judgements_can_be_allowed() -> None:
    assert check_allowed(['box-outside', 'box-outside']) == {'box-outside'}
    with pytest.raises(ValueError, match=rf'--allow nothing schema: choose from {ALLOWABLE[0]}, '):
        check_allowed(['schema', 'nothing', ALLOWABLE[0]])


def test_the_page_explains_every_code_that_can_be_allowed() -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
    section = page.split('## What you can allow')[1].split('\n## ')[0]
    rows = re.findall(r'^\| `([\w-]+)` \| \w', section, re.MULTILINE)
    assert sorted(rows) == sorted(ALLOWABLE)


def test_every_code_that_can_be_allowed_is_in_use() -> None:
    folder = Path(findings.__file__).parent
    source = ''.join(path.read_text() for path in folder.glob('*.py') if path.name != 'findings.py')
    assert all(f"'{code}'" in source for code in ALLOWABLE)
