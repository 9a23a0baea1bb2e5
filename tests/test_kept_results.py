"""Results are measured once, again where they are outdated, and not at all where only kept ones are wanted."""

from pathlib import Path
from typing import Any

from mmtwins.kept_results import keep_result


def is_failed(result: dict[str, Any]) -> bool:
    return result['state'] == 'failed'


def fail_to_measure() -> dict[str, Any]:
    raise AssertionError('this was measured already')


def test_a_result_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    assert keep_result(path, lambda: dict(state='works', seconds=1.5), is_failed) == dict(state='works', seconds=1.5)
    assert keep_result(path, fail_to_measure, is_failed) == dict(state='works', seconds=1.5)
    assert [one.name for one in tmp_path.iterdir()] == ['a.json']


def test_what_is_outdated_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    keep_result(path, lambda: dict(state='failed'), is_failed)
    assert keep_result(path, fail_to_measure, is_failed, only_kept=True) == dict(state='failed')
    assert keep_result(path, lambda: dict(state='works'), is_failed) == dict(state='works')


def test_nothing_is_measured_where_only_kept_results_are_wanted(tmp_path: Path) -> None:
    assert keep_result(tmp_path / 'a.json', fail_to_measure, is_failed, only_kept=True) is None
    assert [*tmp_path.iterdir()] == []
