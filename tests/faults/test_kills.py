"""A small part of the kills of ``python tests/faults/kills.py``."""

from pathlib import Path

from kills import kill_trainings


def test_kills_lose_less_than_a_checkpoint_interval_and_change_nothing(tmp_path: Path) -> None:
    result = kill_trainings(tmp_path, kills=12, inside=4)
    assert result.kills >= 12 and result.inside >= 4 and result.runs >= 1
    assert (result.lost, result.differing) == (0, 0)
