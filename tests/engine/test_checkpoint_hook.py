"""Checkpoints of our hook in MMEngine's Runner: the order of events, what is kept, what is refused."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner, load_checkpoint
from tiny_training import VALIDATION, make_config

from mmtwins.engine.checkpoint_hook import SafeCheckpointHook
from mmtwins.engine.runner import build_runner
from mmtwins.engine.work_dir import find_newest_checkpoint
from mmtwins.weights import saving
from mmtwins.weights.opening import read_file

VALIDATED = {**VALIDATION, 'train_cfg.val_interval': 4}


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


def config(work_dir: Path, iterations: int = 12, options: dict[str, Any] | None = None, **hook: Any) -> Config:
    """Twelve iterations, a checkpoint at every fourth; options of the config by dotted name, and of the hook."""
    hook = {f'default_hooks.checkpoint.{key}': value for key, value in hook.items()}
    return make_config(work_dir, **{'train_cfg.max_iters': iterations, **hook, **(options or {})})


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def read(path: Path) -> dict[str, Any]:
    return read_file(path)


def checkpoint_hook(runner: Runner) -> SafeCheckpointHook:
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
    return hook


class Events:
    """What happens to checkpoints and the pointer on the disk, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        replace, remove, unlink = os.replace, os.remove, os.unlink

        def on_replace(source: Any, target: Any) -> None:
            self.seen.append(f'+{Path(target).name}')
            replace(source, target)

        def on_remove(path: Any) -> None:
            self.seen.append(f'-{Path(path).name}')
            remove(path)

        monkeypatch.setattr(saving.os, 'replace', on_replace)
        monkeypatch.setattr(os, 'remove', on_remove)
        monkeypatch.setattr(
            os, 'unlink', lambda path, **kw: (self.seen.append(f'-{Path(path).name}'), unlink(path, **kw))
        )

    def of_checkpoints(self) -> list[str]:
        return [event for event in self.seen if not event.startswith('-.')]


def test_the_old_one_goes_when_the_new_one_and_the_pointer_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events(monkeypatch)
    build_runner(config(tmp_path)).train()
    assert events.of_checkpoints() == [
        '+iter_4.pth', '+last_checkpoint',
        '+iter_8.pth', '+last_checkpoint', '-iter_4.pth',
        '+iter_12.pth', '+last_checkpoint', '-iter_8.pth',
    ]  # fmt: skip
    assert checkpoints(tmp_path) == ['iter_12.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_12.pth')


def test_the_best_one_so_far_goes_last_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(monkeypatch)
    scores = iter([0.5, 0.7, 0.6])
    monkeypatch.setattr('tiny_training.MeanError.compute_metrics', lambda self, results: dict(acc=next(scores)))
    build_runner(config(tmp_path, 12, VALIDATED, save_best='acc')).train()
    assert events.of_checkpoints() == [
        '+iter_4.pth', '+last_checkpoint', '+best_acc_iter_4.pth', '+iter_4.pth', '+last_checkpoint',
        '+iter_8.pth', '+last_checkpoint', '-iter_4.pth',
        '+best_acc_iter_8.pth', '+iter_8.pth', '+last_checkpoint', '-best_acc_iter_4.pth',
        '+iter_12.pth', '+last_checkpoint', '-iter_8.pth',
    ]  # fmt: skip
    assert checkpoints(tmp_path) == ['best_acc_iter_8.pth', 'iter_12.pth']
    hub = read(tmp_path / 'iter_12.pth')['message_hub']['runtime_info']
    assert hub['best_score'] == 0.7 and hub['best_ckpt'] == str(tmp_path / 'best_acc_iter_8.pth')


def test_a_copy_of_a_work_directory_leaves_the_original_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7])
    monkeypatch.setattr('tiny_training.MeanError.compute_metrics', lambda self, results: dict(acc=next(scores)))
    build_runner(config(tmp_path / 'a', 4, VALIDATED, save_best='acc')).train()
    before = {path.name: path.read_bytes() for path in (tmp_path / 'a').glob('*.pth')}
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    cfg = config(tmp_path / 'b', 8, VALIDATED, save_best='acc')
    cfg.resume = True
    build_runner(cfg).train()
    assert checkpoints(tmp_path / 'b') == ['best_acc_iter_8.pth', 'iter_8.pth']
    assert {path.name: path.read_bytes() for path in (tmp_path / 'a').glob('*.pth')} == before


def test_a_checkpoint_holds_what_mmengine_saves_and_its_tools_read_it(tmp_path: Path) -> None:
    runner = build_runner(config(tmp_path))
    runner.train()
    ours = read(tmp_path / 'iter_12.pth')
    runner.save_checkpoint(str(tmp_path), 'plain.pth', meta=dict(epoch=0, iter=12), by_epoch=False)
    plain = read(tmp_path / 'plain.pth')
    assert ours.keys() == plain.keys() and ours['meta'].keys() == plain['meta'].keys()
    for name, value in plain['state_dict'].items():
        assert torch.equal(ours['state_dict'][name], value)
    loaded = load_checkpoint(runner.model, str(tmp_path / 'iter_12.pth'), map_location='cpu', strict=True)
    assert loaded['meta']['iter'] == 12
    assert 'train/loss' in ours['message_hub']['log_scalars']
    again = Runner.from_cfg(config(tmp_path / 'mmengine', 16, type='CheckpointHook'))  # with MMEngine's own hook
    again._load_from, again._resume = str(tmp_path / 'iter_12.pth'), True
    again.train()
    assert again.iter == 16


def test_a_runner_without_our_tools_resumes_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    build_runner(config(tmp_path, 8, max_keep_ckpts=-1)).train()
    whole = (tmp_path / 'iter_8.pth').read_bytes()
    (tmp_path / 'iter_12.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_12.pth'))
    for name, iteration in (('first', 8), ('second', 0)):
        cfg = config(tmp_path, 12, type='SafeCheckpointHook')
        cfg.update(resume=True, custom_hooks=[])
        runner = Runner.from_cfg(cfg)
        begin = Begin()
        runner.register_hook(begin)
        runner.train()
        assert begin.iteration == iteration, name
        for path in tmp_path.glob('*.pth'):
            path.unlink()


class Begin(Hook):
    """Notes at which iteration a run begins."""

    def before_train(self, runner: Runner) -> None:
        self.iteration = runner.iter


class Spoil(Hook):
    """Spoils a weight, an average of the optimizer or a running mean after some iterations."""

    def __init__(self, what: str, iterations: set[int]) -> None:
        self.what, self.iterations = what, iterations

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        layers = runner.model.layers
        value = {
            'layers.0.weight': layers[0].weight.data,
            'layers.1.running_mean': layers[1].running_mean,
            'optimizer.state.0.exp_avg': runner.optim_wrapper.optimizer.state[layers[0].weight]['exp_avg'],
        }[self.what]
        if runner.iter + 1 in self.iterations:
            self.before = value.clone()
            value.view(-1)[3] = float('inf')
        elif hasattr(self, 'before'):
            value.copy_(self.before)
            del self.before


@pytest.mark.parametrize('what', ['layers.0.weight', 'layers.1.running_mean', 'optimizer.state.0.exp_avg'])
def test_what_is_not_finite_is_not_saved(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = build_runner(config(tmp_path, 12))
    runner.register_hook(Spoil(what, {8}))
    for hook in runner.hooks:
        if type(hook).__name__ == 'StopOnDivergenceHook':
            hook.patience = 100
    runner.model.train_step = lambda *args, **kwargs: dict(loss=torch.zeros(()))  # the weights stay as they are
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.optimizer.zero_grad()
    sum(parameter.sum() for parameter in runner.model.parameters()).backward()
    runner.optim_wrapper.optimizer.step()
    runner.train()
    log = ''.join(path.read_text() for path in tmp_path.rglob('*.log'))
    assert (
        f'no checkpoint is written after iteration 8, because {what} holds numbers that are not finite: '
        f'{tmp_path}/iter_4.pth stays the newest' in log
    )
    assert checkpoints(tmp_path) == ['iter_12.pth']  # when all is finite again


def test_a_run_does_not_go_on_without_checkpoints(tmp_path: Path) -> None:
    runner = build_runner(config(tmp_path, 40))
    runner.register_hook(SpoilAverage())
    message = r'iteration 12, because optimizer\.state\.0\.exp_avg .*iter_4\.pth stays the newest, nor was one after iteration 8'
    with pytest.raises(SystemExit, match=message):
        runner.train()
    assert (runner.iter + 1, checkpoints(tmp_path)) == (12, ['iter_4.pth'])


class SpoilAverage(Hook):
    """Spoils an average of the optimizer at iteration 6, while the weight itself stays as it is."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        weight = runner.model.layers[0].weight
        if runner.iter + 1 == 6:
            weight.requires_grad = False
            runner.optim_wrapper.optimizer.state[weight]['exp_avg'][0] = float('nan')


def test_the_best_of_what_no_validation_gives_is_an_error(tmp_path: Path) -> None:
    options = {**VALIDATED, 'default_hooks.checkpoint.rule': 'less'}
    with pytest.raises(SystemExit, match='error: save_best=nothing: the validation gives loss; name one of them'):
        build_runner(config(tmp_path, save_best='nothing', options=options)).train()
    assert checkpoints(tmp_path) == ['iter_4.pth']


def test_a_run_whose_last_weights_are_not_finite_ends_with_an_error(tmp_path: Path) -> None:
    runner = build_runner(config(tmp_path, 12))
    runner.register_hook(Spoil('layers.1.running_mean', {12}))
    with pytest.raises(SystemExit, match=r'error: no checkpoint is written after iteration 12, .*iter_8\.pth stays'):
        runner.train()
    assert checkpoints(tmp_path) == ['iter_8.pth']


def test_a_full_disk_ends_the_run_with_a_sentence_and_all_that_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = build_runner(config(tmp_path, 12))
    usage, before = shutil.disk_usage(tmp_path), {}

    class Fill(Hook):
        priority = 'HIGH'

        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter + 1 == 8:
                before.update({name: (tmp_path / name).read_bytes() for name in ('iter_4.pth', 'last_checkpoint')})
                monkeypatch.setattr(saving.shutil, 'disk_usage', lambda path: usage._replace(free=1000))

    runner.register_hook(Fill())
    with pytest.raises(SystemExit) as end:
        runner.train()
    assert str(end.value).startswith(f'error: {tmp_path}/iter_8.pth cannot be written: it needs 0.')
    assert str(end.value).endswith(
        f'MB, and the disk has 0.0 MB left. Make room, then start again: {tmp_path}/iter_4.pth stays, and --resume '
        'continues from it'
    )
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert checkpoints(tmp_path) == ['iter_4.pth']
    assert str(end.value).removeprefix('error: ') in ''.join(path.read_text() for path in tmp_path.rglob('*.log'))


def test_a_disk_that_is_full_before_the_pointer_names_the_checkpoint_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = lambda _: usage._replace(free=10 if (tmp_path / 'iter_8.pth').exists() else usage.free)  # noqa: E731
    monkeypatch.setattr(saving.shutil, 'disk_usage', free)
    message = rf'{tmp_path}/last_checkpoint cannot be written: .*: {tmp_path}/iter_8\.pth stays, and --resume'
    with pytest.raises(SystemExit, match=message):
        build_runner(config(tmp_path)).train()
    assert find_newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_8.pth')


def test_published_checkpoints_have_the_published_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(monkeypatch)
    build_runner(config(tmp_path, 4, published_keys=['meta', 'state_dict'])).train()
    (path,) = tmp_path.glob('iter_4-????????.pth')
    assert f'+{path.name}' in events.seen  # by a rename
    assert read(path).keys() == {'meta', 'state_dict'}


@pytest.mark.parametrize('keep', [1, 2, 3])
def test_as_many_are_kept_after_a_kill_between_writing_and_removing(
    keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_runner(config(tmp_path, 12, max_keep_ckpts=keep)).train()
    cfg = config(tmp_path, 20, max_keep_ckpts=keep)
    cfg.resume = True
    runner = build_runner(cfg)

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(SafeCheckpointHook, '_remove_outdated', kill)
    runner.register_hook(Begin())
    with pytest.raises(Killed):
        runner.train()
    monkeypatch.undo()
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    for _ in range(2):
        cfg = config(tmp_path, 20, max_keep_ckpts=keep)
        cfg.resume = True
        build_runner(cfg).train()
        kept = [f'iter_{20 - 4 * i}.pth' for i in range(keep)]
        assert checkpoints(tmp_path) == sorted(kept)


def test_partial_files_are_cleared_away_and_another_folder_is_used(tmp_path: Path) -> None:
    folder = tmp_path / 'out' / 'work'
    folder.mkdir(parents=True)
    (folder / '.iter_9.pth.partial').write_bytes(b'half')
    runner = build_runner(config(tmp_path / 'work', 4, out_dir=str(tmp_path / 'out')))
    runner.train()
    assert [path.name for path in folder.iterdir()] == ['iter_4.pth']
    assert (tmp_path / 'work' / 'last_checkpoint').read_text() == str(folder / 'iter_4.pth')


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (dict(message_hub=None), 'it holds no state of a training to resume: message_hub missing'),
        (
            dict(optimizer=dict(state={}, param_groups=[dict(params=[0, 1])])),
            'its optimizer is of another model: 2 weights',
        ),
    ],
)
def test_what_cannot_be_resumed_is_refused_with_a_sentence(damage: dict, message: str, tmp_path: Path) -> None:
    build_runner(config(tmp_path, 4)).train()
    checkpoint = {**read(tmp_path / 'iter_4.pth'), **damage}
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, tmp_path / 'other.pth')
    cfg = config(tmp_path, 8)
    cfg.update(resume=True, load_from=str(tmp_path / 'other.pth'))
    with pytest.raises(SystemExit, match=rf'error: {tmp_path}/other\.pth: {message}.*name it in load_from'):
        build_runner(cfg).train()


def test_two_trainings_in_one_work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(work_dir: str) -> Any:
        raise ValueError('another training writes to it')

    monkeypatch.setattr('mmtwins.engine.checkpoint_hook.lock_work_dir', held)
    with pytest.raises(SystemExit, match=r'error: another training writes to it'):
        build_runner(config(tmp_path, 4)).train()
    assert checkpoints(tmp_path) == []


def test_averaged_weights_are_saved_and_checked(tmp_path: Path) -> None:
    runner = build_runner(config(tmp_path, 8, dict(custom_hooks=[dict(type='EMAHook')])))
    runner.train()
    assert 'ema_state_dict' in read(tmp_path / 'iter_8.pth')
    average = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    next(average.parameters()).data.view(-1)[0] = float('nan')
    assert not checkpoint_hook(runner)._may_save(runner, 8)


def test_by_epoch(tmp_path: Path) -> None:
    cfg = config(tmp_path, 4)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
    cfg.train_dataloader.sampler.type = 'DefaultSampler'
    build_runner(cfg).train()
    assert checkpoints(tmp_path) == ['epoch_2.pth', 'epoch_3.pth']
    assert read(tmp_path / 'epoch_3.pth')['meta']['epoch'] == 3


def test_a_resumed_checkpoint_names_no_other_files_to_remove(tmp_path: Path) -> None:
    own = ['epoch_5.pth', 'iter_70.pth', 'best_mIoU_iter_5.pth']
    for name in ('run/notes', 'thesis.tex', 'folder/a', *(f'run/{name}' for name in own)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    hook = SafeCheckpointHook(interval=1)
    hook.out_dir, hook._storage = str(tmp_path / 'run'), LocalBackend()
    hub = MessageHub.get_instance('names_to_remove')
    hub.update_info('outdated_ckpts', ['../thesis.tex', str(tmp_path / 'folder'), 'notes', 7, '../folder', *own])
    hook._remove_outdated(SimpleNamespace(message_hub=hub))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*') if path.is_file()}
    assert left == {'run/notes', 'thesis.tex', 'folder/a'}
