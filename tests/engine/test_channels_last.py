"""Channels-last heads: equal results, and nothing for the operators that cannot read such maps."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')
from shrunk import load_shrunk
from toys import DETECTOR, SEGMENTOR

from mmtwins.engine.channels_last import ChannelsLastHook, use_channels_last
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model
from mmtwins.engine.runner import build_runner


def is_channels_last(weight: torch.Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def gradients(model: nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The maps of the neck or the scores of the decode head, and the gradients of a loss of them."""
    model.zero_grad()
    found = (
        model(images, mode='tensor') if hasattr(model, 'decode_head') else model.rpn_head(model.extract_feat(images))
    )
    maps = [found] if isinstance(found, torch.Tensor) else [one for level in found for one in level]
    sum((one**2).sum() for one in maps).backward()
    return [one.detach() for one in maps], {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('config', [SEGMENTOR, DETECTOR])
def test_results_and_gradients_are_equal_within_rounding(config: Path) -> None:
    torch.manual_seed(0)
    model = build_model(load_config(str(config))).eval()
    images = torch.randn(2, 3, 64, 64)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    maps, grads = gradients(model, images)
    parts = use_channels_last(model)
    assert parts
    other_maps, other_grads = gradients(model, images)
    torch.testing.assert_close(other_maps, maps, rtol=1e-4, atol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=1e-3, atol=1e-4 * float(grad.abs().max()) + 1e-7)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_segmentor_runs_in_it_but_for_its_backbone() -> None:
    model = build_model(load_config(str(SEGMENTOR)))
    assert use_channels_last(model) == ['data_preprocessor', 'decode_head', 'auxiliary_head']
    assert is_channels_last(model.decode_head.fpn_bottleneck.conv.weight)
    before = {name for name, p in model.backbone.named_parameters() if p.dim() == 4 and is_channels_last(p)}
    fresh = build_model(load_config(str(SEGMENTOR))).backbone
    assert before == {name for name, p in fresh.named_parameters() if p.dim() == 4 and is_channels_last(p)}
    assert model.decode_head(model.backbone(torch.randn(2, 3, 64, 64))).is_contiguous(memory_format=torch.channels_last)


def test_maps_for_operators_of_mmcv_stay_contiguous() -> None:
    """RoIAlign reads any memory as if it were contiguous."""
    model = build_model(load_config(str(DETECTOR))).eval()
    parts = use_channels_last(model)
    assert {'rpn_head', 'roi_head.mask_head', 'roi_head.bbox_head'} <= set(parts)
    assert not {'neck', 'roi_head.bbox_roi_extractor'} & set(parts)
    assert is_channels_last(model.rpn_head.rpn_conv.weight) and is_channels_last(
        model.roi_head.mask_head.convs[0].conv.weight
    )
    with torch.no_grad():
        assert all(one.is_contiguous() for one in model.extract_feat(torch.randn(2, 3, 64, 64)))


def test_a_neck_without_such_operators_runs_in_it() -> None:
    (path,) = (Path(__file__).parents[2] / 'configs' / 'coco').glob('retinanet_twins-svt-s_fpn_8xb2-1x_*.py')
    cfg = load_config(str(path))
    model = build_model(cfg, cfg.model.neck)
    head = nn.Module()
    whole = nn.ModuleDict(dict(backbone=nn.Conv2d(3, 4, 3), neck=model, bbox_head=head))
    assert use_channels_last(whole) == ['neck', 'bbox_head']
    assert is_channels_last(model.fpn_convs[0].conv.weight) and not is_channels_last(whole.backbone.weight)


def test_a_training_with_the_hook_is_the_same_within_rounding(toy_data: Path, tmp_path: Path) -> None:
    (path,) = (Path(__file__).parents[2] / 'configs' / 'ade20k').glob('upernet_twins-svt-s_8xb2-*.py')
    weights = []
    for hook in (None, dict(type='ChannelsLastHook')):
        options = {} if hook is None else {'default_hooks.channels_last': hook}
        runner = build_runner(load_shrunk(path, toy_data, tmp_path / str(hook is None), **options))
        runner.train()
        weights.append(runner.model.state_dict())
        assert is_channels_last(runner.model.decode_head.fpn_bottleneck.conv.weight) == (hook is not None)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_an_evaluation_in_it_and_in_bfloat16_has_nearly_the_same_result(
    call_tool, toy_data: Path, toy_checkpoints: dict[str, Path]
) -> None:
    """As docs/performance.md says: two options of `mmtwins test`."""
    found = []
    both = ['default_hooks.channels_last.type=ChannelsLastHook', 'test_cfg.fp16=True']
    for options in ([], both[:1], both):
        given = [SEGMENTOR, toy_checkpoints['mmseg'], '--cfg-options', f'data_root={toy_data / "ade"}', *options]
        result = call_tool('test.py', *given)
        assert result.returncode == 0, result.stderr
        found.append(float(re.findall(r'mIoU: +([\d.]+)', result.stdout + result.stderr)[-1]))
    assert found[1] == found[0] == pytest.approx(found[2], abs=2.0)


def test_the_hook_comes_through_the_runner_of_a_config() -> None:
    from mmengine.model import MMDistributedDataParallel
    from mmengine.registry import HOOKS

    hook = HOOKS.build(dict(type='ChannelsLastHook'))
    assert isinstance(hook, ChannelsLastHook)
    model = build_model(load_config(str(SEGMENTOR)))
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    hook.before_val(SimpleNamespace(model=wrapped))
    assert is_channels_last(model.decode_head.fpn_bottleneck.conv.weight)
