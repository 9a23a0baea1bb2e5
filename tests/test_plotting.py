"""What our figures share."""

import numpy as np
import pytest

from mmtwins.plotting import blend_labels, make_figure, save_figure, use_plain_log_ticks, viridis

pytest.importorskip('matplotlib')

PALETTE = ((221, 204, 119), (204, 102, 119), (51, 34, 136))


def test_blend_labels():
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 255], [2, -1, 3]])
    blended = blend_labels(image, labels, PALETTE, opacity=0.5)
    assert blended[0, 0].tolist() == [161, 152, 110]  # halfway from 100 to the colour, rounded half up
    assert blended[0, 1].tolist() == [152, 101, 110]
    for unpainted in (blended[0, 2], blended[1, 1], blended[1, 2]):
        assert unpainted.tolist() == [100, 100, 100]
    assert image.min() == image.max() == 100


def test_figures_have_axes_in_rows_and_columns(tmp_path) -> None:
    figure, axes = make_figure(2, 3, width=1, height=1)
    assert axes.shape == (2, 3)
    assert save_figure(figure, tmp_path / 'deep/a.png').read_bytes().startswith(b'\x89PNG')


def test_ticks_on_a_log_axis_are_whole_numbers() -> None:
    _, axes = make_figure(1, 1, width=2, height=2)
    use_plain_log_ticks(axes[0, 0], [1, 7, 64, 512], largest=100)
    assert [label.get_text() for label in axes[0, 0].get_xticklabels()] == ['1', '7', '64']


def test_colours_differ_in_lightness() -> None:
    lightness = [sum(colour[:3]) for colour in viridis(4)]
    assert lightness == sorted(lightness) and len(set(lightness)) == 4
    assert len(viridis(1)) == 1
