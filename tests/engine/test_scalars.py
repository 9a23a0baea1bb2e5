"""Numbers of a training, joined over its runs; tests/analysis/test_run_log.py has more cases."""

from pathlib import Path

from runs import write_run

from mmtwins.engine.scalars import read_scalars


def training(*steps: int, loss: float = 1.0) -> list[dict]:
    return [dict(lr=1e-3, loss=loss, iter=step, step=step) for step in steps]


def test_the_later_of_two_runs_counts_where_both_trained(tmp_path: Path) -> None:
    write_run(tmp_path, training(10, 20, 30, 40), None, '20260101_100000', rest='{"lr": 0.001, "lo')
    write_run(tmp_path, [*training(30, 40, loss=0.5), dict(mIoU=70.0, step=40)], None, '20260101_110000')
    records = read_scalars(tmp_path)
    assert [(r['step'], r.get('loss')) for r in records] == [(10, 1.0), (20, 1.0), (30, 0.5), (40, None), (40, 0.5)]
    assert records[3]['mIoU'] == 70.0


def test_a_folder_of_one_run_and_one_without_logs(tmp_path: Path) -> None:
    write_run(tmp_path, training(10, 20))
    assert read_scalars(tmp_path / '20260101_100000') == read_scalars(tmp_path) == training(10, 20)
    assert read_scalars(tmp_path / 'missing') == []
