"""Figures of attention: what is drawn where."""

import numpy as np
import pytest
import torch
from planted import ARCH, plant, representatives_of

from mmtwins import TwinsSVTBackbone
from mmtwins.analysis.attention_figures import draw_attention, pca_colours
from mmtwins.analysis.attention_maps import capture_attention
from mmtwins.analysis.attention_rollout import Rollout
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


def box_of(artist):
    return np.array(artist.get_window_extent().extents)


def heat_maps(figure):
    """Panels with a heat map over an image, from top to bottom and left to right, with the titles above each of them."""
    boxes = {axis: box_of(axis) for axis in figure.axes if len(axis.get_images()) == 2}
    texts = [(text.get_text(), *box_of(text)) for text in figure.texts]
    titles = {}
    for axis, (left, _, _, top) in sorted(boxes.items(), key=lambda item: (-round(item[1][3]), item[1][0])):
        above = [(y0, text) for text, x0, y0, *_ in texts if y0 >= top and abs(x0 - left) < 3]
        titles[axis] = min(above)[1] if above else ''
    return titles


def texts_of(figure):
    """All that is written, with the numbers along the axes and the legend."""
    yield from figure.texts
    for axis in figure.axes:
        yield from axis.texts
        if axis.get_xlabel():
            yield from (axis.xaxis.label, axis.yaxis.label)
            for part, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
                inside = [min(limits) <= place <= max(limits) for place in part.get_ticklocs()]
                yield from (label for label, is_drawn in zip(part.get_ticklabels(), inside) if is_drawn)
        if axis.get_legend():
            yield from axis.get_legend().get_texts()


def assert_apart(figure):
    """No text meets another one, or leaves the page, and no panel covers another one or a text."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height(physical=True)
    texts = [text for text in texts_of(figure) if text.get_text()]
    boxes = np.array([box_of(text) for text in texts])
    assert boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
    panels = np.array([box_of(axis) for axis in figure.axes if axis.axison])
    for text, box in zip(texts, boxes):
        words = [other.get_text() for other, meets in zip(texts, meeting(box, boxes)) if meets and other is not text]
        assert not words, (text.get_text(), words)
        if text.axes is None or text not in text.axes.texts:  # numbers of points lie on the image
            assert not meeting(box, panels).any(), text.get_text()
    for i, box in enumerate(panels):
        assert not meeting(box, panels[:i]).any()


def meeting(box, boxes):
    """Which boxes have more than half a pixel in common with one."""
    if not len(boxes):
        return np.zeros(0, bool)
    common = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    return (common > 0.5).all(axis=1)


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
    assert_apart(figure)
    headings = [text.get_text() for text in figure.texts if text.get_weight() == 'bold']
    assert headings == [
        'Output: three principal components as red, green, blue',
        *(
            f'{kind} at point {number}, ({x}, {y}): {which}'
            for number, x, y in ((1, 50, 25), (2, 2, 45))
            for kind in ('Local attention (LSA)', 'Global attention (GSA)')
            for which in ('mean of the heads', 'each head')
        ),
    ]
    panels = heat_maps(figure)
    local, *_ = panels
    assert panels[local] == 'stage 2, block 1\nwindow of 7 x 7 tokens\nx 28 to 56, y 0 to 28'
    assert local.get_xlim() == (28, 56) and local.get_ylim() == (28, 0)
    axis = next(axis for axis, title in panels.items() if title.endswith('3 x 4 keys, each of 4 x 4 tokens'))
    assert axis.get_xlim() == (0, 64) and axis.get_ylim() == (48, 0)
    heat = axis.get_images()[-1]
    assert heat.get_extent() == [0, 64, 48, 0] and heat.get_cmap().name == 'viridis'
    assert np.unravel_index(heat.get_array().argmax(), (3, 4)) == (1, 2) and heat.get_array().max() > 99
    lines = sorted({float(v) for c in axis.collections for path in c.get_paths() for v in path.vertices[:, 0]})
    assert lines == [0, 16, 32, 48, 64]  # the grid of sub-windows
    assert len(panels) == 2 * 2 * (1 + 2)  # of two points and two kinds: the mean and two heads
    image = next(axis for axis in figure.axes if axis.get_xlabel())
    assert image.get_xlabel() == 'x (pixels)' and image.get_xlim() == (0, 64)


SIZES = ((5000, 50), (50, 5000), (37, 1000), (1000, 37), (250, 200), (33, 32))


@pytest.mark.parametrize(
    ('width', 'height', 'heads'),
    [
        (5000, 50, False),
        *(pytest.param(*size, False, marks=pytest.mark.slow) for size in SIZES if size != (5000, 50)),
        *(pytest.param(*size, True, marks=pytest.mark.slow) for size in SIZES),
    ],
)
def test_nothing_overlaps_whatever_the_shape_of_the_image(width, height, heads, figures, tmp_path):
    """In a model with as many heads as the largest, at two points, one of them in a corner, where windows are cut."""
    arch = dict(embed_dims=(16, 32, 32, 64), depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 32), mlp_ratios=(1, 1, 1, 1))
    torch.manual_seed(0)
    backbone = TwinsSVTBackbone(arch=arch, window_padding='zero').eval()
    padded = [-(-side // 32) * 32 for side in (height, width)]
    points = [(width - 0.5, height - 0.5), (width / 3, height / 3)][: 1 if heads else 2]
    with capture_attention(backbone, points) as maps, torch.no_grad():
        outputs = backbone(torch.rand(1, 3, *padded))
    image = np.full((height, width, 3), 128, np.uint8)
    features = {index: output[0].numpy() for index, output in enumerate(outputs, start=1)}
    draw_attention(Inspection(image, maps, features, tuple(padded)), tmp_path / 'a.png', heads, features=not heads)
    (figure,) = figures
    assert_apart(figure)
    panels = np.array([box_of(axis) for axis in heat_maps(figure)])
    assert len(panels) == (2 * (4 + 2 + 4 + 8 + 32) if heads else 2 * 2 * 4)
    sizes = panels[:, 2:] - panels[:, :2]
    assert sizes.min() > 0.08 * figure.dpi  # inches
    assert heads or sizes[:, 0].min() > 0.22 * figure.bbox.width
    is_stretched = max(width, height) > 500
    assert any('stretched' in text.get_text() for text in figure.texts) == is_stretched


def test_a_figure_of_one_stage_has_room_for_its_titles(backbone, figures, tmp_path):
    with capture_attention(backbone, [(3, 3), (4999, 40)], stages=[3]) as maps, torch.no_grad():
        backbone(torch.rand(1, 3, 64, 5024))
    image = np.zeros((50, 5000, 3), np.uint8)
    draw_attention(Inspection(image, maps, {}, (64, 5024)), tmp_path / 'a.png', heads=True, features=True)
    assert_apart(figures[0])
    assert any('no output of this backbone' in text.get_text() for text in figures[0].texts)


def test_figure_shows_where_a_rollout_comes_from(backbone, figures, tmp_path):
    """60 % from 16 x 32 pixels of the input, in an image of half its size; the rest from everywhere."""
    points = [(100, 50), (5, 90)]
    shares = np.full((96, 128), 0.4 / (96 * 128 - 512), np.float32)
    shares[16:32, 64:96] = 0.6 / 512
    with capture_attention(backbone, points, stages=[2, 3]) as maps, torch.no_grad():
        backbone(torch.rand(1, 3, 96, 128))
    rollouts = [Rollout(stage, point, 4 * stage, (1, 3), shares) for point in points for stage in (2, 3)]
    image = np.full((48, 60, 3), 128, np.uint8)
    inspection = Inspection(image, maps, {}, (96, 128), (2.0, 2.0), rollouts)
    draw_attention(inspection, tmp_path / 'a.png')
    (figure,) = figures
    assert_apart(figure)
    headings = [text.get_text() for text in figure.texts if text.get_weight() == 'bold']
    assert [heading for heading in headings if 'Rollout' in heading] == [
        f'Rollout of point {number}, {place}: what its token depends on'
        for number, place in ((1, '(50, 25)'), (2, '(2, 45)'))
    ]
    panels = {axis: title for axis, title in heat_maps(figure).items() if title.startswith('output of')}
    assert (
        list(panels.values()) == [f'output of stage {stage}\nhalf of it: 3.5 % of the pixels' for stage in (2, 3)] * 2
    )
    for axis in panels:
        heat = axis.get_images()[-1]
        assert heat.get_extent() == [0, 64, 48, 0] and axis.get_xlim() == (0, 64)
        values = heat.get_array()
        largest = 0.6 / 512 * 96 * 128
        assert values[20, 70] == pytest.approx(largest) == heat.norm.vmax and values[0, 0] == 1 == heat.norm.vmin
    assert sum(text.get_text() == '14.4 x the average' for text in figure.texts) == 4


def test_figure_of_nothing(tmp_path):
    with pytest.raises(ValueError, match='no attention to draw'):
        draw_attention(Inspection(np.zeros((4, 4, 3), np.uint8), [], {}, (4, 4)), tmp_path / 'none.png')
