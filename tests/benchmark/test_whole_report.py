"""Tables of whole models, settings and pipelines, cell by cell."""

from mmtwins.benchmark.whole_report import model_name, pipeline_tables, settings_tables, to_markdown, whole_tables


def _task(work: str, **settings: object) -> dict:
    plain = dict(
        config='fpn_twins-svt-s_4xb4-80k_ade20k.py', work=work, height=512, width=683, batch=2, precision='fp32'
    )
    return {**plain, **settings}


def _timing(alone: list[float], loading: list[float]) -> dict:
    return dict(alone=alone, loading=loading, parts=dict(backbone=1.0, heads=3.0))


def test_whole_models_are_beside_ours() -> None:
    timings = dict(mmtwins=_timing([2.0, 4.0], [6.0]), timm=_timing([6.0], [9.0]))
    memory = dict(mmtwins=2 * 10**9, timm=3 * 10**9, mmseg=None)
    found = [dict(kind='whole', task=_task('inference'), timings=timings, memory=memory)]
    found.append(dict(kind='whole', task=_task('training', precision='bf16'), memory=dict(mmtwins=10**6)))
    training, inference, parts = whole_tables(found)
    name, size = 'fpn_twins-svt-s', '2 x 512 x 683'
    assert training[2] == [[name, f'{size} bf16', 'mmtwins', '', '', '', '', '1', '1.00']]
    assert inference[0] == 'inference'
    assert inference[2] == [
        [name, size, 'mmtwins', '3.00', '1.00', '6.00', '1.00', '2000', '1.00'],
        [name, size, 'timm', '6.00', '2.00', '9.00', '1.50', '3000', '1.50'],
        [name, size, 'mmseg', '', '', '', '', 'does not fit', ''],
    ]
    assert parts[1:] == (['model', 'batch and size', 'backbone', 'heads'], [[name, size, '0.250', '0.750']])
    assert all(len(row) == len(titles) for _, titles, rows in (training, inference, parts) for row in rows)


def test_settings_are_beside_the_plain_model() -> None:
    effects = {
        'as it is': dict(seconds=[4.0], parts=dict(heads=3.0), difference=0.0, equal=1.0),
        'bf16': dict(seconds=[1.0, 2.0, 9.0], parts=dict(heads=1.5), difference=0.0123, equal=None),
    }
    found = [dict(kind='settings', task=_task(work), effects=effects) for work in ('inference', 'training')]
    training, inference = settings_tables(found)
    common = ['fpn_twins-svt-s', '2 x 512 x 683']
    assert inference[2][0] == [*common, 'as it is', '4.00', '1.00', '3.00', '0e+00', '1.0000']
    assert inference[2][1] == [*common, 'bf16', '2.00', '2.00', '1.50', '1e-02', '']
    assert training[2][1] == [*common, 'bf16', '2.00', '2.00', '1.50']


def test_pipelines_have_rates_and_transforms() -> None:
    task = dict(config='a_b_c', work='training')
    first = dict(kind='pipeline', task=task, rates={'0': 12.34, '2': 20.0}, transforms=dict(Load=0.01, Resize=0.03))
    second = dict(kind='pipeline', task=dict(task, config='d_e'), rates={'1': 5.0}, transforms=dict(Load=0.5))
    rates, one, other = pipeline_tables([first, second])
    assert rates[1] == ['pipeline', '0 workers', '1 worker', '2 workers']
    assert rates[2] == [['a_b, training', '12.3', '', '20.0'], ['d_e, training', '', '5.0', '']]
    assert one[2] == [['Load', '10.0', '0.25'], ['Resize', '30.0', '0.75'], ['all', '40.0', '1.00']]
    assert other[0] == 'transforms of d_e, training'
    assert pipeline_tables([]) == []


def test_commands_and_machines_stand_above_the_tables_once() -> None:
    task = dict(config='a_b_c', work='training')
    result = dict(kind='pipeline', task=task, rates={'0': 1.0}, transforms=dict(Load=0.1))
    result.update(commands=['mmtwins benchmark one', 'mmtwins benchmark two'], machine=dict(device='A', cpus=2))
    text = to_markdown([result, result])
    assert text.count('mmtwins benchmark one\nmmtwins benchmark two\n') == 1
    assert text.count('device A, cpus 2') == 1
    assert '**images per second**' in text and '| a_b, training | 1.0 |' in text


def test_models_are_named_without_their_schedule() -> None:
    assert model_name('configs/coco/mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py') == 'mask-rcnn_twins-svt-s'
