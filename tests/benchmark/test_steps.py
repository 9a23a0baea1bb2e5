"""One step of a task: of the backbone, and of whole configs."""

from pathlib import Path

import pytest
import torch
from tiny import TINY

from mmtwins import TwinsSVTBackbone
from mmtwins.benchmark import steps
from mmtwins.benchmark.steps import make_step
from mmtwins.benchmark.task import WORKS, Task


@pytest.mark.parametrize('config', ['toy/upernet_*', 'toy/mask-rcnn_*'])
@pytest.mark.parametrize('work', WORKS)
def test_whole_configs_run(config: str, work: str) -> None:
    pytest.importorskip('mmseg' if 'upernet' in config else 'mmdet')
    path = next((Path(__file__).parents[2] / 'configs').glob(config))
    task = Task(work, 64, 96, batch=2, config=str(path))
    make_step(task, 'mmtwins')()
    with pytest.raises(ValueError, match='has an architecture of its own, which mmseg has not'):
        make_step(task, 'mmseg')


@pytest.mark.parametrize('work', WORKS)
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_step_has_gradients_in_training_alone(monkeypatch, work: str, precision: str) -> None:
    models = []
    build = steps.build_backbone
    monkeypatch.setattr(steps, 'build_backbone', lambda *args: models.append(build(*args)) or models[-1])
    weights = TwinsSVTBackbone().state_dict()
    make_step(Task(work, 32, 32, precision=precision), 'mmtwins', weights)()
    (model,) = models
    assert model.training == (work == 'training')
    grads = [parameter.grad is not None for parameter in model.parameters()]
    assert all(grads) if work == 'training' else not any(grads)
    assert torch.equal(model.state_dict()['norm_list.0.weight'], weights['norm_list.0.weight'])


def test_channels_last_holds_for_weights_and_images(monkeypatch) -> None:
    seen = []
    build = steps.build_backbone

    def watched(*args):
        model = build(*args)
        model.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0])))
        return model

    monkeypatch.setattr(steps, 'build_backbone', watched)
    for name in ('mmtwins', 'mmtwins channels-last'):
        make_step(Task('inference', 32, 40, arch=TINY), name)()
    layouts = [(model.patch_embeds[0].proj.weight, images) for model, images in seen]
    assert [[one.is_contiguous(memory_format=torch.channels_last) for one in pair] for pair in layouts] == [
        [False, False],
        [True, True],
    ]


def test_a_forward_pass_holds_no_gradients_of_the_last_step(monkeypatch) -> None:
    held = []
    build = steps.build_backbone

    def watched(*args):
        model = build(*args)
        model.register_forward_pre_hook(
            lambda module, _: held.append(any(p.grad is not None for p in module.parameters()))
        )
        return model

    monkeypatch.setattr(steps, 'build_backbone', watched)
    step = make_step(Task('training', 32, 32, arch=TINY), 'mmtwins')
    step()
    step()
    assert held == [False, False]


def test_a_config_with_another_backbone_is_refused(tmp_path) -> None:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmcv._ext')
    base = next((Path(__file__).parents[2] / 'configs').glob('toy/upernet_*'))
    path = tmp_path / 'other.py'
    resnet = "dict(_delete_=True, type='ResNet', depth=18, num_stages=4)"
    path.write_text(f"_base_ = '{base}'\nmodel = dict(backbone={resnet})\n")
    with pytest.raises(ValueError, match='is ResNet, not one of Twins'):
        make_step(Task('inference', 64, 64, config=str(path)), 'mmtwins')
