"""A hundred AdamW steps of UPerNet's recipes equal those of a plain reference, up to the rounding of their precision."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('matplotlib')

import hundred_steps
from hundred_steps import RECIPES, STEPS, Run, train_plainly, train_recipe

both_lengths = pytest.mark.parametrize('steps', [25, pytest.param(STEPS, marks=pytest.mark.slow)])


@both_lengths
@pytest.mark.parametrize('family', [pytest.param(f, marks=pytest.mark.slow) if 'PCPVT' in f else f for f in RECIPES])
def test_a_hundred_steps_in_float64_are_those_of_the_plain_reference(family: str, steps: int) -> None:
    """Model, losses, schedule, decay per parameter and AdamW: a difference in one of them is far larger than rounding."""
    ours, plain = (train(family, torch.float64, steps=steps) for train in (train_recipe, train_plainly))
    unit = torch.finfo(torch.float64).eps
    assert len(ours.losses) == steps
    assert plain.losses[-1] < (0.85 if steps == STEPS else 0.98) * plain.losses[0]
    np.testing.assert_allclose(ours.losses, plain.losses, rtol=16 * unit)
    assert ours.weights.keys() == plain.weights.keys()
    for name, value in plain.weights.items():
        torch.testing.assert_close(ours.weights[name], value, rtol=0, atol=100 * unit, msg=name)


@pytest.mark.slow
@both_lengths
def test_a_hundred_steps_in_float32_differ_by_the_rounding_of_float32_alone(steps: int) -> None:
    """The control is the plain reference in float32, which rounds in other places than the recipe.

    Heads with GELU, because ReLU has a kink: a value that float32 rounds to its other side changes the gradient at once.
    """
    exact = train_plainly('Twins-SVT', torch.float64, smooth=True, steps=steps).losses
    control, ours = (
        np.abs(train('Twins-SVT', torch.float32, smooth=True, steps=steps).losses - exact).max()
        for train in (train_plainly, train_recipe)
    )
    assert 0 < control < 16 * torch.finfo(torch.float32).eps * exact.max()
    assert ours < 4 * control


@both_lengths
def test_the_recipe_in_float32_follows_the_plain_reference_through_the_kinks_of_relu(steps: int) -> None:
    exact = train_plainly('Twins-SVT', torch.float64, steps=steps).losses
    ours = train_recipe('Twins-SVT', torch.float32, steps=steps).losses
    np.testing.assert_allclose(ours, exact, rtol=0.01)


def test_the_picture_shows_losses_and_their_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falling = np.linspace(3, 2, STEPS)
    monkeypatch.setattr(hundred_steps, 'train_plainly', lambda *_: Run(falling, {}))
    monkeypatch.setattr(hundred_steps, 'train_recipe', lambda *_: Run(falling + 1e-3, {}))
    figures = []
    monkeypatch.setattr(hundred_steps, 'save_figure', lambda figure, path: figures.append(figure) or path)
    assert hundred_steps.draw(tmp_path / 'steps.png') == tmp_path / 'steps.png'
    losses, differences, *_ = figures[0].axes
    assert len(figures[0].axes) == 2 * len(RECIPES)
    for line, expected in zip(losses.lines, (falling, falling + 1e-3), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), expected)
    for line in differences.lines[:3]:
        np.testing.assert_allclose(line.get_ydata(), 1e-3)
