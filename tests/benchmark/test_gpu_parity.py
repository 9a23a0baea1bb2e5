"""Parity: what a fault changes is found, in each precision; rounding is not."""

import copy
import math

import pytest
import torch
from cuda_autocast import needs_half
from fake_cuda import OnCpu, plug_in

from mmtwins.benchmark import gpu_parity
from mmtwins.benchmark.gpu_parity import IMAGES, TOLERANCES, Errors, compare, make_model, measure_parity
from mmtwins.benchmark.gpu_plan import TINY

SIZE = (40, 75)  # windows of 7 tokens are cut off on one axis and on both


@pytest.mark.parametrize('family', ['svt', 'pcpvt'])
def test_rounding_is_within_what_is_allowed(family: str) -> None:
    found = measure_parity(family, SIZE, 'cpu', ('fp32', 'bf16'), TINY)
    exact, rounded = found['rows']
    assert found['failures'] == [] and exact['passed'] and rounded['passed']
    assert exact['errors']['features'] < 1e-5 < 1e-3 < rounded['errors']['features'] < 0.3
    assert exact['errors']['gradients'] < 1e-4 < 1e-3 < rounded['errors']['gradients'] < 0.3
    assert rounded['allowed'] == TOLERANCES['bf16']._asdict()


@needs_half
def test_a_fault_of_the_device_fails_in_each_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is masked wrongly changes one window."""
    attend = gpu_parity.run_both_ways
    calls = []

    def faulty(model, images, directions, precision):
        calls.append(precision)
        if len(calls) > 1:  # the first is the reference
            model.blocks[0][0].attn.register_forward_hook(lambda m, inputs, out: shifted(out))
        return attend(model, images, directions, precision)

    def shifted(out):
        out = out.clone()
        out[:, :, -2:] = out[:, :, -2:].flip(2)
        return out

    monkeypatch.setattr(gpu_parity, 'run_both_ways', faulty)
    found = measure_parity('svt', SIZE, 'cpu', tuple(TOLERANCES), TINY)
    assert [row['passed'] for row in found['rows']] == [False] * 4
    assert len(found['failures']) >= 4
    assert 'features of svt at 40 x 75 in bf16 differ by' in ' '.join(found['failures'])


def test_errors_are_relative_and_what_is_no_number_is_infinite() -> None:
    maps, ones = [torch.tensor([[0.0, 2.0]])], torch.ones(4)
    expected = maps, {IMAGES: ones, 'a': ones, 'b': ones, 'small': 0.01 * ones}
    std = maps[0].std().item()
    assert compare(expected, expected) == Errors(0, 0)
    other = [maps[0] + 0.1], {IMAGES: 1.2 * ones, 'a': ones, 'b': ones, 'small': 0.02 * ones}
    # The small gradient is doubled, but beside that of other parameters the difference is 0.01 of 1.
    assert compare(other, expected) == pytest.approx((0.1 / std, 0.2), rel=1e-4)
    assert compare(([maps[0] * math.nan], expected[1]), expected) == Errors(math.inf, 0)


def test_every_parameter_and_the_images_are_compared() -> None:
    torch.manual_seed(0)
    model = make_model('svt', TINY)
    images = torch.randn(1, 3, 64, 64)  # of fewer, the last stage has one token, whose attention has no gradient
    directions = [torch.randn_like(one) for one in model(images)]
    _, gradients = gpu_parity.run_both_ways(copy.deepcopy(model), images, directions, 'fp32')
    assert set(gradients) == {IMAGES, *(name for name, _ in model.named_parameters())}
    assert all(gradient.norm() > 0 for gradient in gradients.values())


def test_what_does_not_fit_into_a_gpu_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)
    run = gpu_parity.run_both_ways

    def full(model, images, directions, precision):
        if precision == 'bf16':
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return run(model, images, directions, precision)

    monkeypatch.setattr(gpu_parity, 'run_both_ways', full)
    with OnCpu():
        found = measure_parity('svt', SIZE, 'cuda:0', ('fp32', 'bf16', 'tf32'), TINY)
    assert found['failures'] == []
    assert [row.get('reason', row.get('passed')) for row in found['rows']] == [True, 'does not fit into memory', True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('family', ['svt', 'pcpvt'])
def test_a_gpu_gives_the_features_and_gradients_of_the_cpu(family: str) -> None:
    assert measure_parity(family, (250, 333), 'cuda:0')['failures'] == []
