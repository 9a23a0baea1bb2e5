"""Figures of attention: what is drawn where."""

import numpy as np
import pytest
import torch
from planted import ARCH, plant, representatives_of

from mmtwins import TwinsSVTBackbone
from mmtwins.analysis.attention_figures import draw_attention, pca_colours
from mmtwins.analysis.attention_maps import capture_attention
from mmtwins.analysis.inspection import Inspection

pytest.importorskip('matplotlib')


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return TwinsSVTBackbone(arch=ARCH, window_sizes=(7, 7, 7, 7), drop_path_rate=0.0).eval()


def test_pca_colours():
    """Three features of different strength, in three of four quarters, come out as three colours and a fourth."""
    rng = np.random.RandomState(0)
    directions = np.linalg.qr(rng.randn(10, 3))[0]
    feature = np.zeros((10, 8, 8))
    for quarter, direction in zip((np.s_[:4, :4], np.s_[:4, 4:], np.s_[4:, :4]), directions.T * (3, 2, 1)[0]):
        feature[(slice(None), *quarter)] = direction[:, None, None]
    colours, share = pca_colours(feature.astype(np.float32))
    assert colours.shape == (8, 8, 3) and colours.min() == 0 and colours.max() == 1 and share == pytest.approx(1)
    quarters = [colours[a, b] for a in (slice(4), slice(4, 8)) for b in (slice(4), slice(4, 8))]
    assert all(np.ptp(q, axis=(0, 1)).max() < 1e-6 for q in quarters)
    distances = [np.abs(a[0, 0] - b[0, 0]).max() for i, a in enumerate(quarters) for b in quarters[:i]]
    assert min(distances) > 0.2
    flat, share = pca_colours(np.ones((4, 3, 5)))
    assert np.isfinite(flat).all() and share == 0


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, path: (saved.append(self), save(self, path)))
    return saved


def axes_of(figure):
    """Panels with a heat map by title of their cell."""
    found = {}
    for band in figure.subfigs:
        for cell in band.subfigs:
            if cell._suptitle and any(axis.get_images() for axis in cell.axes):
                found.setdefault(band._suptitle.get_text(), {})[cell._suptitle.get_text()] = [
                    axis for axis in cell.axes if axis.get_images()
                ]
    return found


def test_figure_shows_the_planted_pattern(backbone, figures, tmp_path):
    """All weight on the sub-window in row 1, column 2 of 32 x 32 pixels, in an image of half the input's size."""
    attention = backbone.blocks[1][1].attn
    x = torch.rand(1, 3, 96, 128)
    plant(attention, representatives_of(backbone, attention, x), [(1, 2), (1, 2)])
    with capture_attention(backbone, [(100, 50), (5, 90)], stages=[2]) as maps, torch.no_grad():
        features = backbone(x)
    image = np.full((48, 60, 3), 128, np.uint8)  # 120 of the 128 columns, the others are padding
    inspection = Inspection(image, maps, {2: features[1][0].numpy()}, (96, 128), (2.0, 2.0))
    path = draw_attention(inspection, tmp_path / 'deep/attention.png', heads=True, features=True)
    assert path.stat().st_size > 10000
    (figure,) = figures
    panels = axes_of(figure)
    assert list(panels) == [
        'Output: three principal components as red, green, blue',
        *(
            f'{kind} from point {number} at x = {x}, y = {y}: {which}'
            for number, x, y in ((1, 50, 25), (2, 2, 45))
            for kind in ('LSA', 'GSA')
            for which in ('average of the heads', 'each head')
        ),
    ]
    (axis,) = panels['GSA from point 1 at x = 50, y = 25: average of the heads'][
        'stage 2, block 2: 12 x 16 tokens\nsub-windows of 4 x 4, 3 x 4 keys'
    ]
    assert axis.get_xlim() == (0, 64) and axis.get_ylim() == (48, 0) and axis.get_xlabel() == 'x (pixels)'
    heat = axis.get_images()[-1]
    assert heat.get_extent() == [0, 64, 48, 0] and heat.get_cmap().name == 'viridis'
    assert np.unravel_index(heat.get_array().argmax(), (3, 4)) == (1, 2) and heat.get_array().max() > 99
    lines = sorted({float(v) for c in axis.collections for path in c.get_paths() for v in path.vertices[:, 0]})
    assert lines == [0, 16, 32, 48, 64]  # the grid of sub-windows
    (axis,) = panels['LSA from point 1 at x = 50, y = 25: average of the heads'][
        'stage 2, block 1: 12 x 16 tokens\nwindow of 7 x 7'
    ]
    assert axis.get_xlim() == (28, 56) and axis.get_ylim() == (28, 0)
    each = panels['GSA from point 2 at x = 2, y = 45: each head']
    assert [len(axes) for axes in each.values()] == [2]


def test_figure_of_nothing(tmp_path):
    with pytest.raises(ValueError, match='no attention to draw'):
        draw_attention(Inspection(np.zeros((4, 4, 3), np.uint8), [], {}, (4, 4)), tmp_path / 'none.png')
