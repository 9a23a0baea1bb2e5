"""Charts of what attention costs over window side and image size, and of the settings to choose from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plotting import INK, LINES, make_figure, save_figure, use_plain_log_ticks, viridis
from .comparison import Comparison
from .cost import gsa_cost, lsa_cost
from .cost_report import StageReport
from .front import DEAR, Setting
from .timing import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_cost_curves(
    stages: Sequence[StageReport], path: str | Path, measured: Sequence[Sequence[Measurement]] | None = None
) -> Path:
    """Draw the cost of LSA, GSA and both over the window side k, one column per feature map.

    Args:
        stages: As ``mmtwins.analysis.cost_report.report_costs`` returns them; their minimum and chosen k are marked.
        path: PNG file to write.
        measured: For each stage, as ``mmtwins.analysis.timing.measure_blocks`` returns it (none for a map without): a second
            row then compares closed form, counted MACs and time, each relative to its value at the chosen k.

    Returns:
        ``path``.
    """
    number = len(stages)
    if measured is None:  # at most three side by side: readable at the width of a page
        columns = min(number, 3)
        figure, grid = make_figure(-(-number // columns), columns, width=3.1, height=3.0)
        axes = grid.reshape(1, -1)
        for axis in axes[0, number:]:
            axis.remove()
    else:
        columns = number
        figure, axes = make_figure(2, number, width=3.1, height=3.0)
    colours = list(LINES[:3])
    for column, stage in enumerate(stages):
        size = (stage.height, stage.width, stage.dim)
        sides = np.geomspace(1, min(size[:2]), 200)
        lsa, gsa = lsa_cost(*size, sides, sides), gsa_cost(*size, sides, sides)
        axis = axes[0, column]
        axis.plot(sides, lsa / 1e6, color=colours[2], linestyle='--', label='LSA: k² H W d')
        axis.plot(sides, gsa / 1e6, color=colours[1], linestyle=':', label='GSA: H² W² d / k²')
        axis.plot(sides, (lsa + gsa) / 1e6, color=colours[0], label='sum')
        axis.plot(stage.best_k, stage.best_cost / 1e6, 'o', color=INK, label='minimum')
        if stage.k <= min(size[:2]):
            axis.plot(stage.k, stage.cost / 1e6, 's', color='white', markeredgecolor=INK, label=f'k = {stage.k}')
        axis.set(
            title=f'{stage.title}, {stage.height} x {stage.width}\nminimum at k = {stage.best_k:.2f}', yscale='log'
        )
        axis.set_ylabel('MACs of one attention\nproduct (M)' if column % columns == 0 else None)
        if measured is not None:
            _draw_measured(axes[1, column], stage, measured[column], colours)
        for row in axes[:, column]:
            row.set_xlabel('k (tokens)')
            use_plain_log_ticks(row, [1, 2, 4, 7, 15, 32, 64, 128, 256, 512], min(size[:2]))
    shown = [axes[0, 0]]
    if measured is not None:
        shown += [next((axis for axis in axes[1] if axis.lines), axes[1, 0])]
        shown[1].set_ylabel('relative to the chosen k')
    named = [pair for axis in shown for pair in zip(*axis.get_legend_handles_labels())]
    figure.legend(*zip(*named), loc='outside lower center', ncols=5 if measured is None else 8, frameon=False)
    return save_figure(figure, path)


def draw_comparison(rows: Sequence[Comparison], path: str | Path) -> Path:
    """Draw MACs and, where measured, time over the image side, one line per setting.

    Args:
        rows: As ``mmtwins.analysis.comparison.compare_calibrated`` returns them.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    quantities = {'MACs of one image (G)': lambda row: row.macs / 1e9}
    if all(row.seconds is not None for row in rows):
        quantities['time of one image (ms)'] = lambda row: row.seconds * 1e3
    figure, axes = make_figure(1, len(quantities), width=4.5, height=3.4)
    settings = list(dict.fromkeys(row.setting for row in rows))
    for axis, (label, value_of) in zip(axes[0], quantities.items()):
        for setting, colour, marker, style in zip(settings, viridis(len(settings)), 'so^D', ('-', '--', ':', '-.')):
            points = [row for row in rows if row.setting == setting]
            values = [value_of(row) for row in points]
            axis.plot([row.side for row in points], values, color=colour, marker=marker, linestyle=style, label=setting)
        axis.set(xlabel='side of the image (pixels)', ylabel=label, yscale='log')
        use_plain_log_ticks(axis, sorted({row.side for row in rows}))
        axis.legend(frameon=False)
    return save_figure(figure, path)


def draw_front(fronts: Mapping[str, Sequence[Setting]], published: Setting, path: str | Path) -> Path:
    """Draw Pareto fronts: MACs over parameters with keys as colours, and the fewest MACs over keys.

    Args:
        fronts: Settings by kind of sub-sampling, see :func:`mmtwins.analysis.cost.pareto_front`.
        published: What to compare with.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from matplotlib.colors import LogNorm

    figure, ((left, right),) = make_figure(1, 2, width=5.2, height=4.0)
    limit = max(DEAR * min(front[0].macs for front in fronts.values()), 1.1 * published.macs)
    drawn = {kind: [one for one in front if one.macs <= limit] for kind, front in fronts.items()}
    keys = [one.keys for front in drawn.values() for one in front]
    norm = LogNorm(min(keys), max(max(keys), min(keys) + 1))
    styles = dict(zip(fronts, zip(LINES, 'osD^', ('-', '--', ':', '-.'))))
    for kind, front in drawn.items():
        colour, marker, style = styles[kind]
        values = [[one.parameters / 1e6 for one in front], [one.macs / 1e9 for one in front]]
        dots = left.scatter(
            *values, c=[one.keys for one in front], norm=norm, marker=marker, s=30, linewidths=0.5, edgecolors=INK
        )
        left.scatter([], [], marker=marker, color='white', edgecolors=INK, label=f'{kind} ({len(front)})')
        fewest = _fewest_macs(front)
        right.step(*zip(*fewest), where='pre', color=colour, linestyle=style)
        right.plot(*zip(*fewest), marker, color=colour, markersize=5, label=kind)
    star: dict[str, Any] = dict(
        marker='*', markersize=13, color='white', markeredgecolor=INK, linestyle='', label='k = 7'
    )
    left.plot(published.parameters / 1e6, published.macs / 1e9, **star)
    right.plot(published.keys, published.macs / 1e9, **star)
    left.set(xlabel='parameters (M)', title='settings that no other beats')
    right.set(xlabel='keys that each token sees at least', title='fewest MACs for so many keys')
    marks = [mark for mark in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if mark > 0.8 * min(keys)]
    use_plain_log_ticks(right, marks, max(keys))
    for axis in (left, right):
        axis.set_ylabel('MACs of one image (G)')
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
        axis.legend(
            loc='upper center', bbox_to_anchor=(0.5, -0.15), ncols=4, frameon=False, handletextpad=0.2, columnspacing=1
        )
    bar = figure.colorbar(dots, ax=left, label='keys')
    ticks = sorted({*keys}, reverse=True)[:: max(1, len({*keys}) // 5)]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.minorticks_off()
    return save_figure(figure, path)


def _fewest_macs(front: Sequence[Setting]) -> list[tuple[int, float]]:
    """Keys and the fewest GMACs of a setting that has so many keys or more, by rising keys."""
    return [
        (keys, min(one.macs for one in front if one.keys >= keys) / 1e9) for keys in sorted({one.keys for one in front})
    ]


def draw_attention_idea(path: str | Path, side: int = 12, k: int = 4) -> Path:
    """Draw what one token attends to: its window in LSA, a representative of every sub-window in GSA.

    Args:
        path: PNG file to write.
        side: Side of the drawn feature map, in tokens.
        k: Side of a window and a sub-window, in tokens; divides ``side``.

    Returns:
        ``path``.
    """
    from matplotlib.patches import Rectangle

    figure, axes = make_figure(1, 3, width=3.4, height=3.6)
    light, middle, dark = 0.95, 0.6, 0.15
    row, column = side // 2 - 2, side // 2 + 1  # of the token that asks
    plain = np.full((side, side), light)
    window = plain.copy()
    window[row // k * k :, column // k * k :][:k, :k] = middle
    representatives = plain.copy()
    representatives[k // 2 :: k, k // 2 :: k] = middle
    pairs = (side * side * k * k, side * side * (side // k) ** 2)
    titles = (
        f'every token with every token\n{side**4:,} pairs',
        f'LSA: inside a {k} x {k} window\n{pairs[0]:,} pairs',
        f'GSA: to one of each sub-window\n{pairs[1]:,} pairs',
    )
    for axis, values, title in zip(axes[0], (np.full((side, side), middle), window, representatives), titles):
        values = values.copy()
        values[row, column] = dark
        axis.imshow(values, cmap='viridis', vmin=0, vmax=1)
        axis.set_xticks(np.arange(side + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(side + 1) - 0.5, minor=True)
        axis.grid(which='minor', color='white', linewidth=0.6)
        axis.tick_params(which='both', length=0)
        axis.set(xticks=[], yticks=[], title=title, xlabel=f'W = {side} tokens', ylabel=f'H = {side} tokens')
        if axis is not axes[0, 0]:
            for y, x in np.ndindex(side // k, side // k):
                axis.add_patch(Rectangle((x * k - 0.5, y * k - 0.5), k, k, fill=False, edgecolor=INK, linewidth=1.5))
        axis.text(column, row, 'q', color='white', ha='center', va='center', fontsize=9)
    return save_figure(figure, path)


def _draw_measured(axis: 'Axes', stage: StageReport, measured: Sequence[Measurement], colours: list) -> None:
    """Closed form, counted MACs and time over k, relative to the chosen k, or to the nearest one that was measured."""
    if not measured:
        axis.set_axis_off()
        return
    size = (stage.height, stage.width, stage.dim)
    sides = np.array([m.k for m in measured])
    reference = int(np.abs(sides - stage.k).argmin())
    series: dict[str, np.ndarray] = {
        'closed form, attention alone': lsa_cost(*size, sides, sides) + gsa_cost(*size, sides, sides),
        'counted MACs of both blocks': np.array([m.macs for m in measured]),
        'time of both blocks': np.array([m.seconds for m in measured]),
    }
    for (label, values), colour, style in zip(series.items(), colours, ('-', '--', 'o-')):
        axis.plot(sides, values / values[reference], style, color=colour, label=label, markersize=4)
    best = measured[int(np.argmin(series['time of both blocks']))]
    axis.set(title=f'fastest at k = {best.k}: {best.seconds * 1e3:.2f} ms', yscale='log')
    low, high = axis.get_ylim()  # often within one power of ten, which would leave a single tick
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    axis.set_yticks(ticks, labels=[f'{tick:g}' for tick in ticks])
