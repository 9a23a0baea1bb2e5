"""Random numbers that follow from a place in a run: seeds, and states to save and restore."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# What the random numbers are for, so that a sample and an iteration of the same number do not share theirs.
SAMPLE = 0
ITERATION = 1


def seed_random_numbers(seed: int, purpose: int, *place: int) -> None:
    """Seed Python, NumPy, PyTorch and, where this process uses it, the current CUDA device.

    Args:
        seed: Of the run, 0 or larger.
        purpose: ``SAMPLE`` or ``ITERATION``.
        place: Where in the run the numbers are drawn, such as an iteration and a rank; 0 or larger.
    """
    words = np.random.SeedSequence([seed, *place], spawn_key=(purpose,)).generate_state(8)
    random.seed(int.from_bytes(words[:4].tobytes(), 'little'))
    np.random.seed(words[4:6])
    number = int(words[6]) << 32 | int(words[7])
    # torch.manual_seed would also note the seed for a CUDA that is never used, with a stack trace each time.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


def get_random_states() -> dict[str, Any]:
    """The random states of this process, as tensors and numbers.

    Returns:
        ``python``, ``numpy``, ``torch`` and, where this process uses it, ``cuda`` of the current device.
    """
    _, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    states: dict[str, Any] = dict(
        python=dict(words=torch.tensor(words), gauss=gauss),
        numpy=dict(
            words=torch.from_numpy(numpy['state']['key'].astype(np.int64)),
            position=int(numpy['state']['pos']),
            has_gauss=int(numpy['has_gauss']),
            gauss=float(numpy['gauss']),
        ),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restore what :func:`get_random_states` returned, on whichever device its tensors are now."""
    python, numpy = states['python'], states['numpy']
    random.setstate((3, tuple(python['words'].tolist()), python['gauss']))
    words = numpy['words'].cpu().numpy().astype(np.uint32)
    np.random.set_state(('MT19937', words, numpy['position'], numpy['has_gauss'], numpy['gauss']))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Leave the random states afterwards as they were before."""
    states = get_random_states()
    try:
        yield
    finally:
        set_random_states(states)
