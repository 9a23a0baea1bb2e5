"""A loss that is no number any more ends a run, with what led to it and the last good checkpoint."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from tiny_training import make_config, read_checkpoint

from mmtwins.engine import divergence
from mmtwins.engine.divergence import StopOnDivergenceHook
from mmtwins.engine.runner import build_runner


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


def run(work_dir: Path, patience: int = 3, **options: Any) -> tuple[str, Runner]:
    """Train until it ends with an error; returns the sentence and the Runner."""
    hooks = [dict(type='StopOnDivergenceHook', patience=patience)]
    runner = build_runner(make_config(work_dir, custom_hooks=hooks, **options))
    with pytest.raises(SystemExit) as end:
        runner.train()
    return str(end.value), runner


def test_the_sentence_names_iteration_files_gradients_and_checkpoint(tmp_path: Path) -> None:
    norms: dict[str, float] = {}

    class Look(torch.optim.AdamW):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            if runner_iter[0] == 8:  # of iteration 9, the last before the loss is infinite
                norms.update({n: p.grad.norm().item() for n, p in models[0].named_parameters()})
            runner_iter[0] += 1
            return super().step(*args, **kwargs)

    runner_iter, models = [0], []
    hooks = [dict(type='StopOnDivergenceHook', patience=3)]
    cfg = make_config(tmp_path, custom_hooks=hooks, **{'model.spoilt_at': 10, 'optim_wrapper.optimizer.type': Look})
    runner = build_runner(cfg)
    models.append(runner.model)
    seen: list[str] = []
    load = type(runner.train_dataloader.dataset).__getitem__

    def note(self: Any, index: int) -> Any:
        seen.append(f'{index}.png')
        return load(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runner.train_dataloader.dataset), '__getitem__', note)
        with pytest.raises(SystemExit) as end:
            runner.train()
    message = str(end.value)
    assert message.startswith('error: the loss is not finite since iteration 10 (inf); its batch: ')
    assert runner.iter + 1 == 12  # three iterations of it
    batch = re.search(r'its batch: ([\w., ]+);', message)[1].split(', ')
    assert batch == seen[36:40]
    largest = sorted(norms, key=norms.get, reverse=True)[:5]
    wanted = ', '.join(f'{name} {norms[name]:.3g}' for name in largest)
    assert (
        f'the largest gradients, by norm, at iteration 9: {wanted}; 6 of 6 gradients are not finite at iteration 10'
        in message
    )
    assert f'the newest checkpoint is {tmp_path}/iter_8.pth. Look at the batch; ' in message
    assert '--cfg-options optim_wrapper.clip_grad.max_norm=1 and continue with --resume' in message
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_8.pth']
    assert all(torch.isfinite(value).all() for value in read_checkpoint(tmp_path / 'iter_8.pth')['state_dict'].values())


class SpoilGradient(OptimWrapper):
    """Makes one gradient infinite at iteration 6, the loss of which is finite."""

    steps = 0

    def step(self, **kwargs: Any) -> None:
        self.steps += 1
        if self.steps == 6:
            self.optimizer.param_groups[0]['params'][1].grad[0] = float('inf')
        super().step(**kwargs)


def test_a_gradient_that_spoils_the_next_loss_is_traced_to_its_batch(tmp_path: Path) -> None:
    message, runner = run(tmp_path, **{'optim_wrapper.type': SpoilGradient})
    assert runner.iter + 1 == 9
    assert message.startswith('error: the loss is not finite since iteration 7 (nan); its batch: ')
    found = re.search(
        r'the largest gradients, by norm, at iteration 5: .*; 1 of 6 gradients are not finite at iteration 6, such as that '
        r'of layers\.0\.bias; the batch of iteration 6: ((\d+\.png(, )?){4});',
        message,
    )
    assert found is not None, message
    batches = re.findall(r'\d+\.png', message)
    assert len(batches) == 8 and batches[:4] != batches[4:]


def test_nothing_that_is_not_finite_becomes_the_newest(tmp_path: Path) -> None:
    message, runner = run(tmp_path, patience=100, **{'model.spoilt_at': 10})  # to the last iteration
    assert (
        'the loss is not finite since iteration 10' in message
        or 'no checkpoint is written after iteration 40' in message
    )
    assert runner.iter == 40
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_8.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_8.pth')


def test_a_rate_that_is_far_too_high(tmp_path: Path) -> None:
    options = {'optim_wrapper.optimizer': dict(type='SGD', lr=1e20), 'optim_wrapper.optimizer._delete_': True}
    message, _ = run(tmp_path, **options)
    assert re.search(r'error: the loss is not finite since iteration [23] ', message)
    assert 'no checkpoint was written before' in message


def make_runner(iteration: int) -> Any:
    return SimpleNamespace(iter=iteration - 1)


def test_only_iterations_in_a_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(StopOnDivergenceHook, '_end', lambda self, runner: ended.append(runner.iter + 1))
    hook = StopOnDivergenceHook(patience=3)
    losses = [
        1.0,
        float('nan'),
        float('inf'),
        2.0,
        float('nan'),
        float('nan'),
        1.0,
        -float('inf'),
        float('nan'),
        float('nan'),
    ]
    for iteration, loss in enumerate(losses, 1):
        hook.after_train_iter(
            make_runner(iteration), 0, None, dict(loss=torch.tensor(loss), acc=torch.tensor(float('nan')))
        )
    assert ended == [10]
    assert hook._first[0] == 8


@pytest.mark.parametrize(
    ('outputs', 'is_finite'),
    [
        (dict(loss=torch.tensor(1.0), loss_aux=torch.tensor(float('nan'))), True),
        (dict(loss_a=torch.tensor([1.0, 2.0]), loss_b=float('nan')), False),
        (dict(acc=float('nan')), True),
        ({}, True),
        (None, True),
    ],
)
def test_the_loss_among_the_outputs(outputs: dict | None, is_finite: bool) -> None:
    hook = StopOnDivergenceHook()
    hook.after_train_iter(make_runner(1), 0, None, outputs)
    assert hook._count == (not is_finite)


def test_files_of_a_batch_in_the_layouts_of_both_libraries() -> None:
    sample = SimpleNamespace(img_path='a.jpg')
    assert list(divergence.iter_files(dict(inputs=[torch.zeros(1)], data_samples=[sample, sample]))) == [
        'a.jpg',
        'a.jpg',
    ]
    assert list(
        divergence.iter_files([dict(img_path='b.jpg'), dict(x=('c', b'd', SimpleNamespace(img_path='e.jpg')))])
    ) == [
        'b.jpg',
        'e.jpg',
    ]
    assert list(divergence.iter_files(torch.zeros(2))) == []


def test_a_patience_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match='patience=0: give the number of iterations, 1 or more'):
        StopOnDivergenceHook(patience=0)
