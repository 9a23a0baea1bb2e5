"""MMEngine's FSDPStrategy on two processes: what it trains, and checkpoints that other trainings and models take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from processes import run_processes
from recipes import CONFIGS

from mmtwins.engine import fsdp
from mmtwins.engine.checks import check_checkpoints
from mmtwins.engine.distributed import prepare_processes
from mmtwins.engine.fsdp import TwinsFSDPStrategy, name_parameters, own_name, uses_fsdp
from mmtwins.engine.model import build_model
from mmtwins.engine.runner import build_runner
from mmtwins.weights.applying import load_weights
from mmtwins.weights.loading import load_safely
from mmtwins.weights.opening import read_file

PATH = CONFIGS / 'training' / 'upernet_twins-svt-l_8xb2-160k-fsdp_ade20k-512x512.py'


def test_parameters_are_named_by_their_place() -> None:
    state = dict(
        state={0: {'step': 1}, 2: {'step': 3}}, param_groups=[dict(params=[0, 1], lr=0.1), dict(params=[2], lr=0.2)]
    )
    named = name_parameters(state, [['a', 'b'], ['c']])
    assert named == dict(
        state={'a': {'step': 1}, 'c': {'step': 3}},
        param_groups=[dict(params=['a', 'b'], lr=0.1), dict(params=['c'], lr=0.2)],
    )
    assert name_parameters(named, [['a', 'b'], ['c']]) == named
    with pytest.raises(ValueError, match='the optimizer in the checkpoint is of another model'):
        name_parameters(state, [['a'], ['b', 'c']])
    assert own_name('backbone.blocks.0.1._fsdp_wrapped_module._checkpoint_wrapped_module.norm1.bias') == (
        'backbone.blocks.0.1.norm1.bias'
    )


def test_folders_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state_dict_cfg='local' writes folders that cannot be resumed: leave it out"):
        TwinsFSDPStrategy(state_dict_cfg='local', work_dir=str(tmp_path))
    (tmp_path / 'iter_1.pth').mkdir()
    (tmp_path / 'iter_1.pth' / '.metadata').touch()
    cfg = Config(dict(model=dict(), load_from=str(tmp_path / 'iter_1.pth'), resume=True, work_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=r"iter_1.pth is a folder, .* with strategy.state_dict_cfg='full', for files"):
        check_checkpoints(cfg)


@pytest.mark.parametrize('kind', ['FSDPStrategy', TwinsFSDPStrategy, 'TwinsFSDPStrategy'])
def test_a_single_process_keeps_the_model_whole(kind: Any) -> None:
    cfg = Config(dict(strategy=dict(type=kind), launcher='none'))
    assert uses_fsdp(cfg)
    prepare_processes(cfg)
    assert cfg.strategy == dict(type='SingleDeviceStrategy')
    assert not uses_fsdp(cfg)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(compile=True), 'compile=True has no effect with FlexibleRunner: leave it out$'),
        (
            dict(activation_checkpointing=['backbone']),
            r"=\['backbone'\] has no effect .*, or set model.backbone.with_cp=True",
        ),
        (dict(custom_hooks=[dict(type='EMAHook')]), 'EMAHook copies the model, .*: leave one of the two out'),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(options: dict, message: str) -> None:
    strategy = dict(type='FSDPStrategy')
    with pytest.raises(ValueError, match=message):
        prepare_processes(Config(dict(runner_type='FlexibleRunner', strategy=strategy, launcher='none', **options)))
    prepare_processes(Config(dict(launcher='none', **options)))


def train(data: Path, work_dir: Path, options: dict) -> dict[str, Any]:
    """In each process."""
    import shrunk

    cfg = shrunk.load_shrunk(PATH, data, work_dir, launcher='pytorch', **options)
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.1)
    runner = build_runner(cfg)
    runner.train()
    parts = sum(value.numel() for value in runner.model.parameters())
    scalars = {key: runner.message_hub.get_scalar(f'train/{key}').data[0].tolist() for key in ('loss', 'grad_norm')}
    return dict(**scalars, parts=parts, kind=type(runner.model).__name__)


def test_a_torch_that_does_not_shard_on_cpus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsdp, 'SHARDS_ON_CPUS', False)
    monkeypatch.setattr(fsdp, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='FSDP on CPUs needs a newer torch than 2'):
        TwinsFSDPStrategy.__new__(TwinsFSDPStrategy)._wrap_model(torch.nn.Linear(2, 2))


@pytest.mark.skipif(not fsdp.SHARDS_ON_CPUS, reason='torch 2.1 does not shard on CPUs')
def test_fsdp_trains_saves_and_resumes_as_ddp_does(toy_data: Path, tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    runs: dict[str, dict] = {name: {'strategy.type': f'{name.upper()}Strategy'} for name in ('fsdp', 'ddp')}
    results, checkpoints = {}, {}
    for name, options in runs.items():
        work_dir = tmp_path / name
        results[name] = run_processes(2, tmp_path / f'{name}-out', train, toy_data, work_dir, options)
        checkpoints[name] = read_file(work_dir / 'iter_2.pth')
    for sharded, whole in zip(*results.values()):
        assert sharded['kind'] == 'MMFullyShardedDataParallel'
        assert sharded['parts'] < 0.6 * whole['parts']
        assert sharded['loss'] == pytest.approx(whole['loss'], rel=1e-4)
        assert sharded['grad_norm'] == pytest.approx(whole['grad_norm'], rel=1e-3)
    assert_same_training(checkpoints['fsdp'], checkpoints['ddp'])
    for name, options in runs.items():  # each resumes the other's
        other = tmp_path / ('ddp' if name == 'fsdp' else 'fsdp') / 'iter_2.pth'
        options = {**options, 'load_from': str(other), 'resume': True, 'train_cfg.max_iters': 3}
        work_dir = tmp_path / f'{name}-resumed'
        resumed = run_processes(2, tmp_path / f'{name}-resumed-out', train, toy_data, work_dir, options)
        assert len(resumed[0]['loss']) == 3
        checkpoints[name] = read_file(work_dir / 'iter_3.pth')
    assert_same_training(checkpoints['fsdp'], checkpoints['ddp'])

    from shrunk import load_shrunk

    start = {'load_from': str(tmp_path / 'fsdp' / 'iter_2.pth'), 'resume': True}
    runner = build_runner(load_shrunk(PATH, toy_data, tmp_path / 'alone', 3, **start))
    runner.train()
    assert runner.iter == 3
    assert {int(state['step']) for state in runner.optim_wrapper.optimizer.state.values()} == {3}
    model = build_model(load_shrunk(PATH, toy_data, tmp_path))
    load_weights(model, load_safely(str(tmp_path / 'fsdp-resumed' / 'iter_3.pth')))
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoints['fsdp']['state_dict'][name]), name


def assert_same_training(given: dict, expected: dict) -> None:
    weights = {name.removeprefix('module.'): value for name, value in expected['state_dict'].items()}  # of DDPStrategy
    assert list(given['state_dict']) == list(weights)
    torch.testing.assert_close(dict(given['state_dict']), weights, rtol=1e-3, atol=1e-5)
    groups, others = (checkpoint['optimizer']['param_groups'] for checkpoint in (given, expected))
    assert [group['weight_decay'] for group in groups] == [group['weight_decay'] for group in others]
    names = [name for group in groups for name in group['params']]
    numbers = [number for group in others for number in group['params']]
    assert len(names) > 100
    for name, number in zip(names, numbers, strict=True):
        states = given['optimizer']['state'][name], expected['optimizer']['state'][number]
        torch.testing.assert_close(*states, rtol=1e-2, atol=1e-5)
        assert (states[0]['exp_avg_sq'] >= 0).all()
