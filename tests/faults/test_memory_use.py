"""Nothing is kept of an iteration or a prediction, neither by the hooks nor by the libraries as we use them."""

from pathlib import Path
from typing import Any

import pytest
from memory_use import SMALL, Use, make_config, predict, train
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toys import save_toy_checkpoint

pytest.importorskip('mmdet')


@HOOKS.register_module()
class KeepHook(Hook):
    """Keeps the loss of each iteration, as a faulty hook would."""

    kept: list[Any]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.kept = [*getattr(self, 'kept', []), outputs]


def growth(first: Use, last: Use) -> tuple[int, int]:
    return last.objects - first.objects, last.tensors - first.tensors


@pytest.mark.filterwarnings('ignore')  # pytest keeps each
@pytest.mark.parametrize('leaks', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_training_keeps_nothing(leaks: bool, toy_data: Path, tmp_path: Path) -> None:
    cfg = make_config(toy_data, tmp_path, iterations=16, interval=4)
    cfg.custom_hooks += [dict(type='KeepHook')] * leaks
    uses = train(cfg, at=[7, 11, 15])  # with a validation and a checkpoint in between
    objects, tensors = map(
        min, *map(growth, uses, uses[1:])
    )  # what is kept grows each time, a cache that fills but once
    if leaks:
        assert tensors >= 4 and objects >= 4
    else:
        assert tensors == 0 and objects < 40


def test_predictions_keep_nothing(tmp_path: Path) -> None:
    checkpoint = save_toy_checkpoint('mmdet', tmp_path / 'small.pth', **SMALL)
    objects, tensors = growth(*predict(checkpoint, 40, at=[20, 40]))
    assert tensors == 0 and objects < 20
