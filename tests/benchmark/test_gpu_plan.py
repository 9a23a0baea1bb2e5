"""The plan of a GPU report: all that is measured, as parts with names and settings."""

import json
from collections import Counter
from pathlib import Path

from mmtwins.benchmark import gpu_plan
from mmtwins.benchmark.gpu_plan import Plan, make_parts
from mmtwins.benchmark.peers import OURS

ROOT = Path(__file__).parents[2]


def parts_of(plan: Plan, monkeypatch, peers=()) -> dict:
    monkeypatch.setattr(gpu_plan, 'installed_peers', lambda: list(peers))
    parts = make_parts(plan, ROOT, lambda number, side: (number, side))
    assert len({part.name for part in parts}) == len(parts)
    return {part.name: part for part in parts}


def test_the_whole_report_has_every_table(monkeypatch) -> None:
    parts = parts_of(Plan('cuda:0'), monkeypatch, ['mmseg', 'timm'])
    kinds = Counter(part.kind for part in parts.values())
    # 4 precisions, 2 works, 2 sizes and 2 batches of the backbone; 4 models, 2 precisions, 2 works and 2 batches.
    assert kinds == dict(tests=1, parity=4, amp=2, backbone=32, model=32, attention=4)
    assert {'parity svt 250x333', 'parity pcpvt 800x1344', 'attention 16x800x1344', 'amp fp16'} < parts.keys()
    assert {'backbone tf32 training 16x800x1344', 'model mask-rcnn bf16 inference 16x800x1344'} < parts.keys()
    assert {'model upernet fp32 training 2x512x512', 'model fpn fp32 training 16x512x512'} < parts.keys()
    measure = parts['model retinanet bf16 training 2x800x1344'].measure
    task, names, rounds = measure.args
    assert names == [*OURS, 'mmseg', 'timm'] and rounds == 7
    assert (task.config, task.device) == ('retinanet_twins-svt-s_fpn_8xb2-1x_coco', 'cuda:0')
    assert parts['amp fp16'].settings['numbers'] == [200, 8, 400, 128]


def test_settings_are_plain_data_that_tell_parts_apart(monkeypatch) -> None:
    parts = parts_of(Plan('cuda:0'), monkeypatch)
    for part in parts.values():
        assert json.loads(json.dumps(part.settings)) == part.settings
    reduced = parts_of(Plan('cuda:0').reduced(), monkeypatch)
    for name in parts.keys() & reduced.keys() - {'tests'}:
        assert parts[name].settings != reduced[name].settings, name


def test_precisions_that_are_not_asked_for_are_left_out(monkeypatch) -> None:
    parts = parts_of(Plan('cuda:0', precisions=('bf16',)), monkeypatch)
    assert Counter(part.kind for part in parts.values()) == dict(
        tests=1, parity=4, amp=1, backbone=8, model=16, attention=4
    )
    assert parts['attention 1x512x512'].settings['precisions'] == ['bf16']
    assert parts['parity svt 250x333'].settings['precisions'] == ['bf16']


def test_a_reduced_report_is_of_every_kind_and_small(monkeypatch) -> None:
    parts = parts_of(Plan('cpu').reduced(), monkeypatch, ['mmseg'])
    assert Counter(part.kind for part in parts.values()) == dict(
        tests=1, parity=4, amp=2, backbone=8, model=4, attention=1
    )
    task, names, rounds = parts['backbone fp32 training 1x64x64'].measure.args
    assert names == ['mmtwins', 'mmtwins channels-last'] and task.arch == gpu_plan.TINY and rounds == 2


def test_scenes_of_the_toy_training_come_again(monkeypatch) -> None:
    _, precision, scene = parts_of(Plan('cpu').reduced(), monkeypatch)['amp bf16'].measure.args
    assert [scene(number) for number in (0, 1, 2)] == [(0, 64), (1, 64), (0, 64)] and precision == 'bf16'
