"""The configs of ``configs/training``, one per option of MMEngine, on tiny models: each does what it says."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from recipes import CONFIGS
from torch import Tensor

from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_on_meta
from mmtwins.engine.runner import build_runner
from mmtwins.weights.opening import read_file

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from shrunk import load_shrunk

FOLDER = CONFIGS / 'training'
DETECTOR = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py'
RECIPE = CONFIGS / 'ade20k' / 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'


def config(option: str) -> Path:
    (path,) = FOLDER.glob(f'*-{option}_*.py')
    return path


class Recorder(Hook):
    """Keeps the loss, and the weights after each iteration."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        torch.manual_seed(runner.iter)  # whatever was drawn before

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.losses.append(float(outputs['loss']))
        self.weights.append({name: value.clone() for name, value in runner.model.state_dict().items()})


def train(path: Path, data: Path, work_dir: Path, max_iters: int = 2, **options: object) -> tuple[Recorder, Runner]:
    recorder = Recorder()
    runner = build_runner(load_shrunk(path, data, work_dir, max_iters, **options))
    runner.register_hook(recorder)
    runner.train()
    return recorder, runner


@pytest.fixture(scope='module')
def plain(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """Two iterations of the recipe that the configs inherit."""
    return train(RECIPE, toy_data, tmp_path_factory.mktemp('plain'))[0]


def test_there_is_a_config_per_option_and_the_readme_lists_it() -> None:
    readme = (FOLDER / 'README.md').read_text()
    paths = sorted(FOLDER.glob('*.py'))
    assert len(paths) == 6
    for path in paths:
        assert f'`{path.name}`' in readme


def test_ema_saves_the_average_and_the_weights(plain: Recorder, toy_data: Path, tmp_path: Path) -> None:
    path = config('ema')
    recorder, _ = train(path, toy_data, tmp_path)
    assert recorder.losses == plain.losses
    checkpoint = read_file(tmp_path / 'iter_2.pth')
    (momentum,) = (hook.momentum for hook in load_config(str(path)).custom_hooks if hook.type == 'EMAHook')
    first, second = recorder.weights
    averaged = 0
    for name, value in checkpoint['state_dict'].items():
        assert torch.equal(checkpoint['ema_state_dict'][f'module.{name}'], second[name]), name
        if not any(part in name for part in ('running_', 'num_batches')):
            torch.testing.assert_close(value, (1 - momentum) * first[name] + momentum * second[name])
            averaged += not torch.equal(value, second[name])
    assert averaged > 50


def test_layer_decay_scales_the_rates_of_the_recipe() -> None:
    """At full size: from the heads, whose rate stays, to the first of 18 blocks and the patch embedding below it."""
    cfg, recipe = (load_config(str(path)) for path in (config('layer-decay'), RECIPE))
    model = build_on_meta(cfg)
    groups, before = (build_optim_wrapper(model, c.optim_wrapper).optimizer.param_groups for c in (cfg, recipe))
    names = {id(value): name for name, value in model.named_parameters()}
    rates = {names[id(group['params'][0])]: group['lr'] for group in groups}
    assert rates.keys() == set(names.values())
    assert [group['weight_decay'] for group in groups] == [group['weight_decay'] for group in before]
    for name, layer in {
        'patch_embeds.0.norm.bias': 0, 'blocks.0.0.attn.qkv.weight': 1, 'pos_block.1.proj.0.weight': 3,
        'blocks.2.9.mlp.fc1.weight': 14, 'norm_list.2.weight': 14, 'patch_embeds.3.proj.weight': 15, 'norm_list.3.bias': 18,
    }.items():  # fmt: skip
        assert rates[f'backbone.{name}'] == pytest.approx(6e-5 * 0.9 ** (19 - layer)), name
    assert {rate for name, rate in rates.items() if 'head' in name} == {6e-5}


def test_accumulation_updates_after_its_iterations_at_the_published_rates(toy_data: Path, tmp_path: Path) -> None:
    cfg, recipe = load_config(str(config('accumulate'))), load_config(str(RECIPE))
    count = cfg.optim_wrapper.accumulative_counts
    assert count * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_iters == count * recipe.train_cfg.max_iters
    assert cfg.train_cfg.val_interval == count * recipe.train_cfg.val_interval
    for ours, published in zip(cfg.param_scheduler, recipe.param_scheduler):
        assert ours.end - 1 == count * (published.end - 1)
        assert {**ours, 'end': 0} == {**published, 'end': 0}
    recorder, runner = train(config('accumulate'), toy_data, tmp_path, 4, **{'optim_wrapper.accumulative_counts': 2})
    weights = [kept['decode_head.conv_seg.weight'] for kept in recorder.weights]
    assert [torch.equal(*pair) for pair in pairwise(weights)] == [False, True, False]
    assert {int(state['step']) for state in runner.optim_wrapper.optimizer.state.values()} == {2}


def count_kept_bytes(runner: Runner) -> int:
    """What a forward pass keeps for the backward pass, weights included."""
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) and x, lambda x: x
    ):
        maps = runner.model.backbone(torch.randn(1, 3, 64, 64))
    assert all(m.requires_grad for m in maps)
    return sum(kept.values())


@pytest.mark.slow
def test_activation_checkpointing_saves_memory_and_changes_no_step(toy_data: Path, tmp_path: Path) -> None:
    path = config('recompute')
    recomputed, runner = train(path, toy_data, tmp_path / 'a')
    kept, other = train(path, toy_data, tmp_path / 'b', activation_checkpointing=None)
    assert load_config(str(path)).model == load_config(str(DETECTOR)).model
    assert recomputed.losses == pytest.approx(kept.losses, rel=1e-5)
    for name, value in recomputed.weights[1].items():
        torch.testing.assert_close(value, kept.weights[1][name], rtol=1e-4, atol=1e-6)
    moved = [
        name for name, value in recomputed.weights[1].items() if not torch.equal(value, recomputed.weights[0][name])
    ]
    assert sum(name.startswith('backbone') for name in moved) > 50
    assert count_kept_bytes(runner) < count_kept_bytes(other) / 5


def test_compile_hands_the_training_step_to_the_compiler(
    plain: Recorder, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiler makes of it: ``test_a_compiled_model_has_the_same_losses``, which takes a minute."""
    compiled = []
    monkeypatch.setattr(torch, 'compile', lambda function, **kwargs: compiled.append((function, kwargs)) or function)
    recorder, runner = train(config('compile'), toy_data, tmp_path)
    assert compiled == [(runner.model.train_step, {})]
    assert recorder.losses == plain.losses
