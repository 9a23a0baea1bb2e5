"""The toy training in mixed precision: what is wrong with it is said, and a GPU gets MMEngine's wrapper."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import GIB, OnCpu, plug_in

pytest.importorskip('mmseg')

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from toys import SEGMENTOR

from mmtwins.benchmark import amp_training
from mmtwins.benchmark.amp_training import judge, train_in_amp
from mmtwins.engine.config import load_config

SIDE = 32  # pixels


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark and a bright half, which are two classes; a border is ignored."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[:, SIDE // 2 :] = 1
    image = np.repeat(labels[..., None] * np.uint8(200), 3, 2)
    labels[:2] = 255
    return image, labels


def toy() -> Any:
    cfg = load_config(str(SEGMENTOR), {'model.data_preprocessor.size': (SIDE, SIDE)})
    cfg.param_scheduler = None
    return cfg


@pytest.mark.parametrize(
    ('losses', 'finite', 'expected'),
    [
        ([4.0] * 10 + [2.0] * 90, True, []),
        (
            [4.0] * 10 + [2.0] * 80 + [3.7] * 10,
            True,
            ['the loss does not fall: 4.000 at the beginning, 3.700 at the end'],
        ),
        ([4.0, math.nan, math.inf, 1.0], True, ['the loss of iteration 2 is nan']),
        ([4.0, 1.0], False, ['a weight is not finite at the end']),
    ],
)
def test_a_training_is_judged(losses: list[float], finite: bool, expected: list[str]) -> None:
    assert judge(losses, finite) == expected


def test_the_loss_falls_on_a_cpu() -> None:
    found = train_in_amp(toy(), draw, 'bf16', 'cpu', iterations=8, batch=2)
    assert found['failures'] == [] and len(found['losses']) == 8
    assert found['losses'][0] == pytest.approx(
        (1 + 0.4) * math.log(9), rel=0.3
    )  # of head and auxiliary head, before they learn
    assert (found['wrapper'], found['loss_scale'], found['peak_bytes']) == ('OptimWrapper', None, None)


@pytest.mark.parametrize(('precision', 'dtype', 'scale'), [('fp16', 'float16', 'dynamic'), ('bf16', 'bfloat16', 1.0)])
def test_a_gpu_gets_mmengines_wrapper(monkeypatch: pytest.MonkeyPatch, precision, dtype, scale) -> None:
    class Scaler:
        def get_scale(self) -> float:
            return 1024.0

    class AmpOptimWrapper(OptimWrapper):
        def __init__(self, dtype: str, loss_scale: str | float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            given.append((dtype, loss_scale))
            self.loss_scaler = Scaler()

    given: list = []
    monkeypatch.setitem(OPTIM_WRAPPERS._module_dict, 'AmpOptimWrapper', AmpOptimWrapper)
    calls = plug_in(monkeypatch)
    with OnCpu():
        found = train_in_amp(toy(), draw, precision, 'cuda:0', iterations=1, batch=2)
    assert given == [(dtype, scale)]
    assert (found['wrapper'], found['loss_scale'], found['peak_bytes']) == ('AmpOptimWrapper', 1024.0, 3 * GIB)
    assert calls.index('reset_peak_memory_stats') < calls.index('max_memory_allocated')


def test_weights_that_are_not_finite_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    build = amp_training.build_model

    def broken(cfg: Any) -> torch.nn.Module:
        model = build(cfg)
        model.register_parameter('unused', torch.nn.Parameter(torch.tensor(math.nan)))
        return model

    monkeypatch.setattr(amp_training, 'build_model', broken)
    found = train_in_amp(toy(), draw, 'bf16', 'cpu', iterations=1, batch=2)
    assert found['failures'] == ['a weight is not finite at the end']


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_the_loss_falls_on_a_gpu(precision: str) -> None:
    found = train_in_amp(toy(), draw, precision, 'cuda:0', iterations=20, batch=2)
    assert found['failures'] == [] and found['wrapper'] == 'AmpOptimWrapper'
