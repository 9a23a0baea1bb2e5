"""Logs of trainings: joined over resumed runs, with broken lines, counted in iterations or epochs; and their configs."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from runs import write_run

from mmtwins.analysis.run_log import read_run
from mmtwins.engine.scalars import read_scalars

CFG = Config(dict(model=dict(type='Model'), train_cfg=dict(max_iters=100)))


def training(*steps: int, loss: float = 1.0, **others: object) -> list[dict]:
    return [dict(lr=1e-3, loss=loss, iter=step, step=step, **others) for step in steps]


def test_the_later_of_two_runs_counts_where_both_trained(tmp_path: Path) -> None:
    """Iterations 30 and 40 were trained, lost with the checkpoint, and trained again."""
    write_run(tmp_path, training(10, 20, 30, 40), CFG, '20260101_100000', rest='{"lr": 0.001, "lo')
    write_run(tmp_path, [*training(30, 40, loss=0.5), dict(mIoU=70.0, step=40)], CFG, '20260101_110000')
    log = read_run(tmp_path)
    assert [(r['step'], r['loss']) for r in log.training] == [(10, 1.0), (20, 1.0), (30, 0.5), (40, 0.5)]
    assert [(r['step'], r['mIoU']) for r in log.validation] == [(40, 70.0)]
    assert (log.starts, log.unreadable, log.world_size, log.epoch_length) == ([10, 30], 1, 8, None)
    records = read_scalars(tmp_path)
    assert [(r['step'], r.get('loss')) for r in records] == [(10, 1.0), (20, 1.0), (30, 0.5), (40, None), (40, 0.5)]
    assert records[3]['mIoU'] == 70.0


def test_five_runs_one_of_them_from_the_start_and_one_that_only_evaluates(tmp_path: Path) -> None:
    write_run(tmp_path, training(10, 20, 30), CFG, '20260101_100000')
    write_run(tmp_path, training(10, 20, loss=2.0), CFG, '20260101_110000')  # all over again
    write_run(tmp_path, training(15, 30, loss=3.0), CFG, '20260101_120000')
    write_run(tmp_path, [], CFG, '20260101_130000')  # killed before its first record
    write_run(tmp_path, [dict(mIoU=1.0, step=0)], CFG, '20260101_140000')
    log = read_run(tmp_path)
    assert [(r['step'], r['loss']) for r in log.training] == [(10, 2.0), (15, 3.0), (30, 3.0)]
    assert (log.starts, log.validation) == ([10, 15], [])


def test_metrics_by_epoch_get_the_iteration_after_which_they_were_measured(tmp_path: Path) -> None:
    records = []
    for epoch in (1, 2, 3):
        records += training(*range(7 * epoch - 6, 7 * epoch), epoch=epoch)
        records.append({'coco/bbox_mAP': 0.1 * epoch, 'step': epoch})
    text = '2026/01/01 10:00:00 - mmengine - INFO - Epoch(train)  [1][1/7]  lr: 1.0e-03\n'
    write_run(tmp_path, records[:-1], CFG, '20260101_100000', text=text)
    # The next run starts with the validation that the first one did not reach.
    write_run(tmp_path, [{'coco/bbox_mAP': 0.9, 'step': 3}, *training(22, epoch=4)], CFG, '20260101_110000', text=text)
    log = read_run(tmp_path)
    assert log.epoch_length == 7
    assert [(r['step'], r['epoch'], r['coco/bbox_mAP']) for r in log.validation] == [(6, 1, 0.1), (13, 2, 0.2)]
    assert [r['step'] for r in log.training][-2:] == [20, 22]


@pytest.mark.parametrize(
    'line',
    [
        '{"lr": 0.1, "loss": 1.0, "st',
        '',
        '[1, 2]',
        '7',
        'null',
        '{"lr": 0.1}',
        '{"lr": 0.1, "step": "a"}',
        '\x00\xff',
        '{"lr": 0.1, "loss": 1.0, "step": 0}',
        '{"lr": 0.1, "loss": 1.0, "step": NaN}',
        '{"loss": 1, "step": Infinity}',
    ],
)
def test_lines_that_are_no_record_are_counted_and_left_out(line: str, tmp_path: Path) -> None:
    write_run(tmp_path, training(10), CFG, rest=f'{line}\n' + json.dumps(training(20)[0]) + '\n')
    log = read_run(tmp_path)
    assert [r['step'] for r in log.training] == [10, 20]
    assert log.unreadable == (1 if line else 0)


def test_numbers_that_are_not_finite_and_hierarchical_names_are_read(tmp_path: Path) -> None:
    rest = '{"train/lr": 0.1, "train/loss": NaN, "train/note": "text", "step": 20}\n{"val/mIoU": 3.0, "step": 20}\n'
    log = read_run(write_run(tmp_path, training(10), CFG, rest=rest))
    assert str(log.training[1]) == "{'lr': 0.1, 'loss': nan, 'step': 20}"
    assert log.validation == [dict(mIoU=3.0, step=20)]


def test_a_folder_of_one_run_is_read_too(tmp_path: Path) -> None:
    write_run(tmp_path, training(10), CFG)
    log = read_run(tmp_path / '20260101_100000')
    assert ([r['step'] for r in log.training], log.world_size) == ([10], 8)
    assert read_scalars(tmp_path / '20260101_100000') == log.training


def test_the_config_of_the_last_run_that_trained_counts(tmp_path: Path) -> None:
    for stamp, number in (('20260101_100000', 1), ('20260101_110000', 2)):
        write_run(tmp_path, training(10 * number), Config(dict(number=number)), stamp)
    write_run(tmp_path, [], Config(dict(number=3)), '20260101_120000')
    Config(dict(number=4)).dump(tmp_path / 'recipe.py')
    assert read_run(tmp_path).cfg.number == 2
    assert read_run(tmp_path, tmp_path / 'recipe.py').cfg.number == 4
    config = tmp_path / '20260101_110000' / 'vis_data' / 'config.py'
    config.write_text(config.read_text() + 'model = dict(')  # cut off
    assert read_run(tmp_path).cfg.number == 4
    config.unlink()
    assert read_run(tmp_path).cfg.number == 4


def test_nothing_was_logged(tmp_path: Path) -> None:
    assert read_scalars(tmp_path) == []
    assert read_scalars(tmp_path / 'missing') == []
    with pytest.raises(ValueError, match='missing is no folder: give the work directory of a training'):
        read_run(tmp_path / 'missing')
    with pytest.raises(ValueError, match=r'has no TIMESTAMP/vis_data/scalars\.json: give the work directory'):
        read_run(tmp_path)
    write_run(tmp_path, [dict(mIoU=1.0, step=5)], CFG)
    with pytest.raises(ValueError, match=r'has no record of training in 1 log\(s\): wait for the first line'):
        read_run(tmp_path)


def test_a_config_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, training(10))
    with pytest.raises(
        ValueError, match=r'no config that can be read \(MMEngine writes one .*: name the recipe with --c'
    ):
        read_run(tmp_path)
    (tmp_path / 'recipe.py').write_text('model = dict(\n')
    with pytest.raises(ValueError, match=r'no config that can be read \(.*recipe\.py: SyntaxError'):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r'nowhere\.py: FileNotFoundError'):
        read_run(tmp_path, tmp_path / 'nowhere.py')
