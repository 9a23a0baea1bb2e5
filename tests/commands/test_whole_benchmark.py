"""mmtwins benchmark --whole, --settings and --pipeline: what they write, keep and refuse. No time is judged."""

import argparse
import json
from pathlib import Path

import pytest

from mmtwins.commands import whole_benchmark

TOY = 'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco'


def _needs_mmdet() -> None:
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext')


def test_a_pipeline_is_measured_written_and_put_on_a_page(call_tool, toy_data: Path, tmp_path: Path) -> None:
    _needs_mmdet()
    page = tmp_path / 'page.md'
    page.write_text('a\n<!-- data: begin -->\n<!-- data: end -->\nb\n')
    data = ['--data-root', toy_data / 'coco', '--workers', '0', '--samples', '2', '--out', 'out']
    result = call_tool('benchmark.py', TOY, '--pipeline', *data, '--update', page, 'data')
    assert result.returncode == 0, result.stderr
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / 'out').glob('*.json')}
    assert kept.keys() == {f'pipeline-{TOY}-training', f'pipeline-{TOY}-inference'}
    training = kept[f'pipeline-{TOY}-training']
    assert training['rates'].keys() == {'0'} and training['rates']['0'] > 0
    assert training['images'] == 8
    text = page.read_text()
    assert text.startswith('a\n<!-- data: begin -->\n```sh\nmmtwins benchmark ') and text.endswith('end -->\nb\n')
    assert f'| mask-rcnn_twins-svt-toy, training | {training["rates"]["0"]:.1f} |' in text
    assert '| LoadImageFromFile |' in text

    again = call_tool('benchmark.py', '--pipeline', '--kept', '--out', 'out')
    assert again.returncode == 0 and '**images per second**' in again.stdout
    none = call_tool('benchmark.py', '--settings', '--kept', '--out', 'out')
    assert none.stderr == 'error: out has no results of --settings: measure first, without --kept\n'


def test_memory_and_time_of_a_whole_model_come_together(
    call_tool, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_mmdet()
    from mmtwins.benchmark import whole_models

    monkeypatch.setattr(whole_models, 'memory_of_whole_model', lambda task, name: 7 * 10**6)
    data = ['--data-root', toy_data / 'coco', '--workers', '0', '--out', 'out', '--against']
    common = [TOY, '--whole', '--work', 'inference', '--size', '64', '--rounds', '2']
    for extra in ([], ['--memory', '--no-time']):
        result = call_tool('benchmark.py', *common, *extra, *data)
        assert result.returncode == 0, result.stderr
    (path,) = (tmp_path / 'out').glob('*.json')
    kept = json.loads(path.read_text())
    assert path.stem == f'whole-{TOY}-inference-1x64x64-fp32'
    assert kept['memory'] == dict(mmtwins=7 * 10**6) and len(kept['timings']['mmtwins']['alone']) == 2
    assert len(kept['commands']) == 2
    assert '| 7 | 1.00 |' in result.stdout and '**shares of our inference**' in result.stdout


def test_what_was_measured_of_another_task_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    first = dict(kind='whole', command='one', machine='m', task=dict(batch=1), memory=dict(mmtwins=1))
    whole_benchmark._keep(path, dict(first))
    whole_benchmark._keep(path, dict(kind='whole', command='two', machine='m', task=dict(batch=2), timings={}))
    assert json.loads(path.read_text()).keys() == {'kind', 'commands', 'machine', 'task', 'timings'}
    whole_benchmark._keep(path, dict(first))
    whole_benchmark._keep(path, {**first, 'command': 'three', 'memory': dict(mmtwins=3)})
    assert json.loads(path.read_text())['commands'] == ['three']
    assert json.loads(path.read_text())['memory'] == dict(mmtwins=3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('--pipeline', '--pipeline needs a config with data: give the name of a recipe or a config file'),
        ('--workers 2', '--workers goes with --whole, --settings or --pipeline'),
        ('--kept', '--kept goes with --whole, --settings or --pipeline'),
        ('c.py --whole --workers 1 2', '--workers 1 2: give one number, or several with --pipeline, from 0 on'),
        ('c.py --pipeline --workers -1', 'from 0 on'),
        ('c.py --pipeline --samples 0', '--samples 0: give at least 1'),
        ('c.py --settings --precision bf16', '--settings compares with float32: leave --precision out'),
        ('c.py --settings --memory', '--memory and --no-time go with --whole alone'),
        ('c.py --whole --no-time', '--whole --no-time measures nothing: add --memory'),
        ('c.py --whole --grow side', '--profile, --grow and --summary do not go with --whole'),
        ('c.py --whole --summary', '--profile, --grow and --summary do not go with --whole'),
        ('c.py --whole --pipeline', 'not allowed with argument'),
        ('c.py --whole', 'c.py'),
    ],
)
def test_wrong_arguments_end_in_one_line(call_tool, arguments: str, message: str) -> None:
    result = call_tool('benchmark.py', *arguments.split())
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_missing_data_are_named(call_tool, tmp_path: Path) -> None:
    _needs_mmdet()
    result = call_tool('benchmark.py', TOY, '--pipeline', '--data-root', 'nowhere')
    assert result.stderr.endswith('there is no data in nowhere: give the folder with --data-root\n')


def test_the_kinds_exclude_each_other() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    whole_benchmark.add_arguments(parser)
    assert whole_benchmark.kind_of(parser.parse_args(['c', '--settings'])) == 'settings'
    assert whole_benchmark.kind_of(parser.parse_args(['c'])) is None
