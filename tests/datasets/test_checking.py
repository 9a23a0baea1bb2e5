"""The whole check and the fast one: what they look at, what is kept, what a config allows."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmtwins.datasets import checking
from mmtwins.datasets.checking import check_before_training, check_datasets, report_on
from mmtwins.datasets.passes import Pass
from mmtwins.engine.config import load_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
Spoil = Callable[..., Config]


@pytest.mark.parametrize('name', ['coco', 'boxes', 'ade'])
@pytest.mark.parametrize('options', [Pass(fast=True), Pass(workers=2)], ids=['fast', 'whole'])
def test_right_data_pass(name: str, options: Pass, small_data: Path) -> None:
    checked = check_datasets(load_config(str(small_data / f'{name}.py')), options=options)
    report = report_on(checked, options.fast)
    assert not report.errors and not report.warnings
    assert [one.source.splits for one in checked] == [('train',), ('val', 'test')]
    first, second = (one.report.numbers for one in checked)
    shares = checked[0].report.shares
    assert list(shares) == ['ground', 'ball', 'crate', 'kite'][name != 'ade' :]
    if name == 'ade':
        assert first['images'] == first['pairs looked into'] == 10 and second['images'] == 5
        assert f'{1 - sum(shares.values()):.1%}' == first['pixels of no class'] != '0.0%'
    else:
        assert (first['images'], first['annotations'], first['boxes to train with']) == (10, 30, 29)
        assert sorted(shares.values()) == [9 / 29, 10 / 29, 10 / 29]  # one is a crowd


def test_images_of_a_coco_file_are_checked(spoil_coco: Spoil) -> None:
    cfg = spoil_coco(lambda content: content['images'][0].update(width=97), library='boxes')
    (one,) = check_datasets(cfg, ('train',))
    assert [finding.code for finding in one.report.findings if finding.is_error] == ['image-size']
    assert one.report.findings[0].cases[0].endswith('0001.jpg: 96 x 64, not 97 x 64')


def test_heads_and_metrics_are_compared_with_the_data(spoil_coco: Spoil) -> None:
    cfg = spoil_coco(lambda content: None)
    cfg.model.roi_head.bbox_head.num_classes = 80
    cfg.val_evaluator.ann_file = cfg.data_root + '/annotations/instances_train2017.json'
    train, val = check_datasets(cfg, ('train', 'val'), Pass(fast=True))
    assert [one.code for one in train.report.findings] == ['num-classes']
    assert train.report.findings[0].cases == ('model.roi_head.bbox_head.num_classes=80',)
    assert [one.code for one in val.report.findings] == ['num-classes', 'evaluator-file']
    cfg.check_data = dict(allow=['num-classes'])
    train, val = check_datasets(cfg, ('train', 'val'), Pass(fast=True))
    assert [one.is_error for one in (*train.report.findings, *val.report.findings)] == [False, True, False]


@pytest.mark.parametrize('value', [5, dict(allow='num-classes'), dict(allow=['schema'])])
def test_what_cannot_be_allowed(value: object, small_data: Path) -> None:
    cfg = load_config(str(small_data / 'coco.py'))
    cfg.check_data = value
    with pytest.raises(ValueError, match=r'check_data=|--allow schema: choose from'):
        check_datasets(cfg)


def test_a_pipeline_that_fails_is_found_with_its_file(spoil_labels: Spoil) -> None:
    def enlarge(root: Path) -> None:
        for path in (root / 'images/training/0003.jpg', root / 'annotations/training/0003.png'):
            Image.open(path).resize((200, 200), Image.Resampling.NEAREST).save(path)

    (one,) = check_datasets(spoil_labels(enlarge), ('train',))  # other images are padded to 128 x 128 only
    (found,) = one.report.findings
    assert found.code == 'pipeline' and '0003.jpg' in found.path
    assert found.text.startswith('loading a sample as the train split does fails: RuntimeError')


def test_the_fast_check_reads_again_only_what_changed(
    spoil_coco: Spoil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = spoil_coco(lambda content: None)
    calls = []
    check = checking.check_coco
    monkeypatch.setattr(checking, 'check_coco', lambda *args: calls.append(1) or check(*args))

    def run(number: int) -> checking.Report:
        report = check_before_training(cfg, 'train', cache=tmp_path / 'cache')
        assert len(calls) == number
        return report

    assert not run(1).errors
    assert run(1) == run(1) and run(1).fast
    image = Path(cfg.data_root) / 'train2017/0002.jpg'
    image.write_bytes(image.read_bytes() + b'\0')
    run(2)
    image.unlink()
    assert [one.code for one in run(3).errors] == ['missing-file']
    assert [one.code for one in run(3).errors] == ['missing-file']  # errors are kept too
    path = Path(cfg.data_root) / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['images'].pop(1)
    path.write_text(json.dumps(content))
    assert [one.code for one in run(4).errors] == ['unknown-image']
    cfg.train_dataloader.dataset.filter_cfg = dict(min_size=10)
    run(5)
    os.utime(path, ns=(0, 0))
    run(6)
    for damaged in (b'', b'{}', b'{"files": 5, "report": 5}'):
        for kept in (tmp_path / 'cache').iterdir():
            kept.write_bytes(damaged)
        calls.clear()
        run(1)


def test_a_cache_that_cannot_be_written_costs_time_only(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    report = check_before_training(load_config(str(small_data / 'ade.py')), 'train', 'val', cache=tmp_path / 'file')
    assert not report.errors


def test_the_cache_is_in_the_folder_of_caches(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    check_before_training(load_config(str(small_data / 'ade.py')), 'train')
    assert len(list((tmp_path / 'mmtwins/data').glob('*.json'))) == 1


def test_what_is_not_known_is_said(small_data: Path) -> None:
    cfg = load_config(str(small_data / 'coco.py'))
    cfg.train_dataloader.dataset.type = 'LVISV1Dataset'
    (one,) = check_datasets(cfg, ('train',))
    (found,) = one.report.findings
    assert found.code == 'not-checked' and not found.is_error
