"""How a Runner writes a checkpoint; what several processes make of it is tested in tests/faults/test_ranks.py."""

from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.runner import FlexibleRunner, checkpoint

from mmtwins.engine import saving_together as module
from mmtwins.engine.saving_together import saving_together

META = dict(epoch=0, iter=4)


class Strategy:
    """Notes what it is to save, as MMEngine's strategies do."""

    def __init__(self) -> None:
        self.saved: list[Any] = []

    def save_checkpoint(self, filename: str, extra_ckpt: dict) -> None:
        checkpoint.save_checkpoint(extra_ckpt, filename)


class Flexible(FlexibleRunner):
    """Counts by itself, as FlexibleRunner does."""

    def __init__(self) -> None:
        self.strategy = Strategy()

    def save_checkpoint(self, folder: str, name: str, meta: dict) -> None:
        meta.update(iter=meta['iter'] + 1, experiment_name='a')
        self.strategy.save_checkpoint(f'{folder}/{name}', extra_ckpt=dict(meta=meta))


def test_flexible_runner_uses_the_backend_and_the_iteration_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list = []
    monkeypatch.setattr(checkpoint, 'save_checkpoint', lambda *args, **kwargs: written.append((args, kwargs)))
    own = checkpoint.save_checkpoint
    runner = Flexible()
    for _ in range(2):
        with saving_together(runner, dict(backend='mine')):
            runner.save_checkpoint('a', 'b', meta=dict(META))
    assert (
        written
        == [((dict(meta=dict(**META, experiment_name='a')), 'a/b'), dict(backend_args=dict(backend='mine')))] * 2
    )
    assert vars(runner).keys() == {'strategy'}
    assert vars(runner.strategy).keys() == {'saved'}
    assert checkpoint.save_checkpoint is own
    runner.save_checkpoint('a', 'b', meta=dict(META))  # outside of the block as MMEngine has it
    assert written[2] == ((dict(meta=dict(epoch=0, iter=5, experiment_name='a')), 'a/b'), {})


@pytest.mark.parametrize('told', ['', 'no room'])
def test_an_error_of_the_first_process_is_one_of_all(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list = []

    def broadcast(values: list) -> None:
        sent.append(values[0])
        values[0] = values[0] or told

    def save(meta: dict) -> None:
        if meta['fails']:
            raise OSError('own')

    monkeypatch.setattr(module, 'broadcast_object_list', broadcast)
    runner = SimpleNamespace(save_checkpoint=save)
    with saving_together(runner, None):
        if told:
            with pytest.raises(OSError, match=told):
                runner.save_checkpoint(meta=dict(fails=False))
        else:
            runner.save_checkpoint(meta=dict(fails=False))
        with saving_together(runner, None), pytest.raises(OSError, match='own'):
            runner.save_checkpoint(meta=dict(fails=True))
    assert sent == ['', 'own', 'own']
    assert runner.save_checkpoint is save


def test_other_errors_pass() -> None:
    def save(meta: dict) -> None:
        raise RuntimeError('no idea')

    runner = SimpleNamespace(save_checkpoint=save)
    with pytest.raises(RuntimeError, match='no idea'), saving_together(runner, None):
        runner.save_checkpoint(meta={})
    assert runner.save_checkpoint is save
