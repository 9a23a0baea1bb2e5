"""Random numbers by place, and random states as something that a checkpoint can hold."""

import io
import random

import numpy as np
import pytest
import torch

from mmtwins.engine.random_states import (
    ITERATION,
    SAMPLE,
    get_random_states,
    kept_random_states,
    seed_random_numbers,
    set_random_states,
)


def draw() -> tuple[float, ...]:
    """From each generator, an odd number of normal ones, of which Python and NumPy keep the second for later."""
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.rand(2).tolist()


def test_the_numbers_follow_from_seed_purpose_and_place() -> None:
    def numbers(*arguments: int) -> tuple[float, ...]:
        seed_random_numbers(*arguments)
        return draw()

    assert numbers(7, SAMPLE, 5) == numbers(7, SAMPLE, 5)
    places = [
        (7, SAMPLE, 5),
        (8, SAMPLE, 5),
        (7, SAMPLE, 6),
        (7, ITERATION, 5, 0),
        (7, ITERATION, 5, 1),
        (7, ITERATION, 0, 5),
    ]
    drawn = np.array([numbers(*place) for place in places])
    for column in drawn.T:
        assert len(set(column)) == len(places)


def test_neighbouring_places_are_independent() -> None:
    drawn = []
    for position in range(2000):
        seed_random_numbers(0, SAMPLE, position)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(1))))
    numbers = np.array(drawn)
    assert np.allclose(numbers.mean(axis=0), 0.5, atol=0.03)
    assert np.allclose(numbers.std(axis=0), 12**-0.5, atol=0.02)
    following = np.corrcoef(np.hstack([numbers[:-1], numbers[1:]]).T)
    assert np.abs(following - np.eye(6)).max() < 0.1


def test_states_survive_a_checkpoint() -> None:
    seed_random_numbers(3, SAMPLE, 0)
    draw()
    file = io.BytesIO()
    torch.save(get_random_states(), file)
    expected = draw(), draw()
    file.seek(0)
    states = torch.load(file, weights_only=True)
    for _ in range(2):
        set_random_states(states)
        assert (draw(), draw()) == expected


def test_states_are_kept_whatever_happens() -> None:
    seed_random_numbers(3, SAMPLE, 0)
    expected = draw()
    seed_random_numbers(3, SAMPLE, 0)
    with pytest.raises(ValueError, match='inside'), kept_random_states():
        seed_random_numbers(4, SAMPLE, 0)
        raise ValueError('inside')
    assert draw() == expected


@pytest.mark.gpu
def test_the_states_of_a_gpu_are_among_them() -> None:
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    torch.zeros(1, device='cuda')
    seed_random_numbers(3, ITERATION, 1)
    states = get_random_states()
    expected = torch.rand(4, device='cuda')
    with kept_random_states():
        seed_random_numbers(4, ITERATION, 1)
        assert not torch.equal(torch.rand(4, device='cuda'), expected)
    seed_random_numbers(3, ITERATION, 1)
    assert torch.equal(torch.rand(4, device='cuda'), expected)
    set_random_states({key: value.cuda() if key in ('cuda', 'torch') else value for key, value in states.items()})
    assert torch.equal(torch.rand(4, device='cuda'), expected)
