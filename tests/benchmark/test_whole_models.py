"""Whole iterations: as MMEngine's, part by part, with backbones of other libraries. No time is judged."""

import copy
import time
from pathlib import Path

import pytest
import torch
from small_recipes import DETECTOR, write_segmentor

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')
from mmengine.optim import build_optim_wrapper

from mmtwins.benchmark import whole_models
from mmtwins.benchmark.peers import installed_peers
from mmtwins.benchmark.real_batches import batches_of
from mmtwins.benchmark.whole_models import WholeStep, WholeTask, find_boxes, memory_of_whole_model, time_whole_models

PARTS = ['pre-processing', 'backbone', 'heads']


@pytest.fixture
def segmentor(toy_data: Path, tmp_path: Path) -> dict:
    return dict(config=str(write_segmentor(tmp_path)), data_root=str(toy_data / 'ade'))


@pytest.fixture
def detector(toy_data: Path) -> dict:
    return dict(config=str(DETECTOR), data_root=str(toy_data / 'coco'))


@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_a_training_iteration_is_that_of_mmengine(kind: str, request: pytest.FixtureRequest) -> None:
    task = WholeTask(work='training', height=64, width=64, batch=2, **request.getfixturevalue(kind))
    cfg = task.load()
    (batch,) = batches_of(cfg, 'training', 2, 1)
    step, other = (WholeStep(task, cfg, 'mmtwins') for _ in range(2))
    before = copy.deepcopy(other.model.state_dict())
    torch.manual_seed(1)
    values = step(copy.deepcopy(batch))
    torch.manual_seed(1)
    other.model.backbone = other.model.backbone.inner
    expected = other.model.train_step(copy.deepcopy(batch), build_optim_wrapper(other.model, cfg.optim_wrapper))
    assert values['loss'].item() == pytest.approx(expected['loss'].item(), rel=1e-5)
    weights = {name.replace('backbone.inner.', 'backbone.'): value for name, value in step.model.state_dict().items()}
    for name, value in other.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(weights[name.replace('.inner.', '.')], value) for name, value in before.items())
    assert list(step.parts) == [*PARTS, 'optimizer']
    assert all(seconds > 0 for seconds in step.parts.values())


def test_the_first_gradient_of_a_map_divides_heads_from_backbone(segmentor: dict, monkeypatch) -> None:
    """With a clock that ticks once per reading, each part has as many ticks as it has laps."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(whole_models.time, 'perf_counter', lambda: float(next(ticks)))
    task = WholeTask(work='training', height=64, width=64, batch=2, **segmentor)
    cfg = task.load()
    (batch,) = batches_of(cfg, 'training', 2, 1)
    step = WholeStep(task, cfg, 'mmtwins')
    step(batch)
    # start, pre-processed, backbone 2, loss, 4 gradients, backward, optimizer
    assert step.parts == {'pre-processing': 1.0, 'backbone': 1.0 + 4.0, 'heads': 2.0 + 1.0, 'optimizer': 1.0}


@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_the_backward_pass_of_the_backbone_begins_after_that_of_the_heads(
    kind: str, request: pytest.FixtureRequest
) -> None:
    task = WholeTask(work='training', height=64, width=64, batch=2, **request.getfixturevalue(kind))
    cfg = task.load()
    (batch,) = batches_of(cfg, 'training', 2, 1)
    step = WholeStep(task, cfg, 'mmtwins')
    arrived: dict[bool, list[float]] = {False: [], True: []}
    for name, parameter in step.model.named_parameters():
        if parameter.requires_grad:
            times = arrived[name.startswith('backbone.')]
            parameter.register_hook(lambda _, times=times: times.append(time.perf_counter()))
    step(batch)
    assert max(arrived[False]) < step._backbone.backward_began < min(arrived[True])


def test_a_detector_with_random_weights_finds_boxes(detector: dict) -> None:
    task = WholeTask(work='inference', height=64, width=64, **detector)
    cfg = task.load()
    (batch,) = batches_of(cfg, 'inference', 1, 1)
    step = WholeStep(task, cfg, 'mmtwins')
    assert step.model.roi_head.test_cfg.score_thr == 0.05
    step.model.roi_head.test_cfg.score_thr = 0.9
    assert len(step(copy.deepcopy(batch))[0].pred_instances) == 0
    find_boxes(step, batch)
    found = step(copy.deepcopy(batch))[0].pred_instances
    assert len(found) == cfg.model.test_cfg.rcnn.max_per_img
    assert found.masks.any()
    other = WholeStep(task, cfg, 'mmtwins').model
    assert other.roi_head.test_cfg.score_thr == cfg.model.test_cfg.rcnn.score_thr == 0.05
    assert list(step.parts) == PARTS


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mmseg', 'timm'])
def test_other_backbones_stand_in_our_place_with_our_weights(toy_data: Path, tmp_path: Path, name: str) -> None:
    if name not in installed_peers():
        pytest.skip(f'needs {name}')
    config = write_segmentor(tmp_path, arch='small')
    task = WholeTask(str(config), 'inference', 224, 224, data_root=str(toy_data / 'ade'))
    cfg = task.load()
    ours, other = (WholeStep(task, cfg, which).model for which in ('mmtwins', name))
    for key, value in ours.state_dict().items():
        if 'backbone' not in key:
            assert torch.equal(other.state_dict()[key], value)
    if name == 'timm':
        assert type(other.backbone.inner).__name__ == 'TIMMBackbone'
        ours.backbone.inner.norm_list = torch.nn.ModuleList([torch.nn.Identity()] * 4)
    images = torch.randn(1, 3, 224, 224)  # windows of 7 divide all its maps
    with torch.no_grad():
        for map_, expected in zip(other.backbone(images), ours.backbone(images), strict=True):
            torch.testing.assert_close(map_, expected, rtol=1e-3, atol=1e-3)


def test_implementations_run_in_turn_with_and_without_loading(detector: dict) -> None:
    task = WholeTask(work='inference', height=64, width=64, workers=0, **detector)
    (timing,) = time_whole_models(task, ['mmtwins'], rounds=2).values()
    assert len(timing.alone) == len(timing.loading) == 2
    assert min(timing.alone) > 0 and min(timing.loading) > 0
    assert list(timing.parts) == PARTS


def test_what_cannot_be_compared_is_refused(detector: dict, tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    task = WholeTask(work='inference', height=64, width=64, **detector)
    with pytest.raises(ValueError, match='has an architecture of its own, which mmseg has not'):
        WholeStep(task, task.load(), 'mmseg')
    other = tmp_path / 'other.py'
    resnet = "dict(_delete_=True, type='ResNet', depth=18)"
    other.write_text(f'_base_ = {str(DETECTOR)!r}\nmodel = dict(backbone={resnet})\n')
    task = WholeTask(str(other), 'inference', 64, 64, data_root=detector['data_root'])
    with pytest.raises(ValueError, match='is ResNet, not TwinsSVTBackbone'):
        WholeStep(task, task.load(), 'mmtwins')


@pytest.mark.slow
@pytest.mark.parametrize('work', ['inference', 'training'])
def test_peak_memory_is_that_of_one_iteration(detector: dict, work: str) -> None:
    task = WholeTask(work=work, height=64, width=64, batch=2, **detector)
    assert 2**20 < memory_of_whole_model(task, 'mmtwins') < 2**31


def test_one_image_is_too_few_for_batch_norm(segmentor: dict, monkeypatch) -> None:
    task = WholeTask(work='training', height=64, width=64, **segmentor)
    step = WholeStep(task, task.load(), 'mmtwins')

    def fail(batch: dict) -> None:
        torch.nn.functional.batch_norm(torch.zeros(1, 2, 1, 1), None, None, training=True)

    monkeypatch.setattr(step, '_train', fail)
    with pytest.raises(ValueError, match='batch norm needs two images or more: give --batch 2'):
        step({})
