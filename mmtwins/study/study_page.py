"""The section of docs/gsa.md about the study: its tables and charts, from kept results."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from ..kept_results import Result
from ..markdown import markdown_table, update_section
from ..plotting import INK, LINES, make_figure, save_figure
from .arm_costs import measure_arms
from .arm_training import Study, config_of, train
from .arms import ARMS, backbone_of, trained_as
from .jobs import distinct_arms
from .maps import draw_map
from .zero_shot import CHANGES, change_windows, config_of_change

TITLE = '## What windows do to accuracy'
SECTION = 'study'


class Findings(NamedTuple):
    """What the study has found: results by arm and by change of windows, a result per seed, and what the arms cost."""

    trained: dict[str, list[Result]]
    changed: dict[str, list[Result]]
    cost: Result | None


def read_findings(study: Study, arms: Sequence[str], seeds: Sequence[int]) -> Findings:
    """Read the kept results of a study.

    Args:
        study: What is done alike for all arms.
        arms: Keys of :data:`mmtwins.study.arms.ARMS`.
        seeds: Of the trainings.

    Returns:
        What there is; arms without a result are left out.
    """
    arch = _architecture(study)
    trained = {
        arm: [found for seed in seeds if (found := train(study, trained_as(arm, arch, study.size), seed, True))]
        for arm in arms
    }
    changed = {
        change: [found for seed in seeds if (found := change_windows(study, change, seed, True))] for change in CHANGES
    }
    cost = measure_arms(study, distinct_arms(study, arms), only_kept=True)
    return Findings(
        {arm: found for arm, found in trained.items() if found},
        {change: found for change, found in changed.items() if found},
        cost,
    )


def study_section(study: Study, findings: Findings, command: str, pictures: str) -> str:
    """The text between the markers: what was done, the tables, and the machine time.

    Args:
        study: What was done alike for all arms.
        findings: Of :func:`read_findings`; at least one arm.
        command: That repeats the study.
        pictures: Folder of :func:`draw_study`, relative to the page.

    Returns:
        Markdown.
    """
    cfg = config_of(study, 'k7', 0)
    images = study.iterations * cfg.train_dataloader.batch_size
    seeds = max(len(found) for found in findings.trained.values())
    lines = [
        f'`{command}` trains a small Twins-SVT on generated maps of {study.size} x {study.size} pixels. It continues where '
        'it was stopped. A patch has the class that the legend at the right border gives to its colour. The legend changes '
        'from map to map, so nothing near a patch tells its class.',
        '',
        f'![Maps and their classes]({pictures}/maps.png)',
        '',
        f'Every training is from scratch: {study.iterations} iterations, {images:,} maps, {seeds} seeds, equal settings. '
        'The head has only 1 x 1 convolutions. mIoU (0 to 1) is the mean over the seeds, with the lowest and the highest. '
        'MACs are those of the whole model for one map. Time and memory are per map; training is a forward and a backward '
        'pass of a batch. Half and twice the keys are those of the calibrated windows, with sub-windows twice and half as '
        'wide.',
        '',
        *_arms_table(study, findings),
        f'![mIoU of each training, and before and after fine-tuning]({pictures}/accuracy.png)',
        '',
    ]
    if findings.changed:
        lines += [
            'The trained models of k = 7, with other windows and with resized sub-sampling kernels, before and after '
            f'{study.finetuning} iterations of fine-tuning at a tenth of the learning rate:',
            '',
            *_changes_table(study, findings.changed),
        ]
    kept: list[Result] = [*_distinct(findings.trained), *_distinct(findings.changed)]
    hours = sum(found['processor_seconds'] for found in kept) / 3600
    lines.append(f'The trainings took {hours:.1f} hours of processor time in all.')
    if findings.cost:
        machine = findings.cost['machine']
        lines.append(
            f'Measured with {machine["threads"]} thread on {machine["device"]}, torch {machine["torch"]}, float32.'
        )
    return '\n'.join(lines)


def _arms_table(study: Study, findings: Findings) -> list[str]:
    arch = _architecture(study)
    titles = ['arm', 'window_sizes', 'sr_ratios', 'mIoU', 'GMACs', 'parameters (M)']
    titles += ['training (ms)', 'training (MB)', 'inference (ms)', 'inference (MB)'] if findings.cost else []
    rows = []
    for arm, found in findings.trained.items():
        backbone = backbone_of(arm, arch, study.size)
        twin = trained_as(arm, arch, study.size)
        title = ARMS[arm].title + (f' (the same as {ARMS[twin].title})' if twin != arm else '')
        windows = [_spell(backbone.get(key)) for key in ('window_sizes', 'sr_ratios')]
        row = [title, *windows, _with_spread([one['mIoU'] for one in found])]
        if findings.cost:
            cost = findings.cost['arms'][twin]
            row += [f'{cost["macs"] / 1e9:.3f}', f'{cost["parameters"] / 1e6:.3f}']
            for work in ('training', 'inference'):
                row += [f'{cost[work]["seconds"] * 1e3:.1f}', _megabytes(cost[work])]
        else:
            row += ['', '']
        rows.append(row)
    return markdown_table(titles, rows, num_text=3)


def _changes_table(study: Study, changed: dict[str, list[Result]]) -> list[str]:
    rows = []
    for change, found in changed.items():
        backbone = config_of_change(study, change, 0).model.backbone
        numbers = [_with_spread([one[key] for one in found]) for key in ('before', 'after')]
        rows.append([_spell(backbone.window_sizes), _spell(backbone.sr_ratios), *numbers])
    return markdown_table(['window_sizes', 'sr_ratios', 'mIoU before', 'mIoU after'], rows, num_text=2)


def _with_spread(values: Sequence[float]) -> str:
    return f'{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})'


def _megabytes(cost: Result) -> str:
    return '' if cost['bytes'] is None else f'{cost["bytes"] / cost["batch"] / 1e6:.0f}'


def _spell(values: Any) -> str:
    """Windows or ratios as the pages of this project write them: 8 4 2 1, and 8x16 for a pair."""
    if values is None:
        return ''
    return ' '.join(str(value) if isinstance(value, int) else 'x'.join(map(str, value)) for value in values)


def _distinct(results: dict[str, list[Result]]) -> list[Result]:
    """Each training once, also where it counts for several arms."""
    return list(
        {found['fingerprint'] + str(found['seed']): found for group in results.values() for found in group}.values()
    )


def _architecture(study: Study) -> dict[str, tuple]:
    return {key: tuple(values) for key, values in config_of(study, 'k7', 0).model.backbone.arch.items()}


def draw_study(study: Study, findings: Findings, folder: Path) -> None:
    """Draw ``accuracy.png``, a point per training, and ``maps.png``, four maps above their classes.

    Args:
        study: What was done alike for all arms.
        findings: Of :func:`read_findings`; at least one arm.
        folder: Folder to write.
    """
    figure, axes = make_figure(1, 2, width=4.6, height=3.6)
    left, right = axes[0]
    for row, found in enumerate(findings.trained.values()):
        values = [one['mIoU'] for one in found]
        left.plot(values, [row] * len(values), 'o', color=LINES[0], alpha=0.6)
        left.plot(mean(values), row, '|', color=INK, markersize=16)
    left.set_yticks(range(len(findings.trained)), labels=[ARMS[arm].title for arm in findings.trained])
    left.invert_yaxis()
    left.set(xlabel='mIoU', title='from scratch, a point per seed')
    for row, found in enumerate(findings.changed.values()):
        before, after = (mean(one[key] for one in found) for key in ('before', 'after'))
        right.plot([before, after], [row, row], color=INK, linewidth=1)
        right.plot(before, row, 'o', color=LINES[1], label='before' if row == 0 else None)
        right.plot(after, row, 'o', color=LINES[2], label='after' if row == 0 else None)
    if findings.changed:
        right.set_yticks(range(len(findings.changed)), labels=list(findings.changed))
        right.invert_yaxis()
        right.set(xlabel='mIoU', title='k = 7 with other windows, fine-tuned')
        right.legend(frameon=False)
    else:
        right.set_axis_off()
    save_figure(figure, folder / 'accuracy.png')
    draw_examples(folder / 'maps.png', study.size)


def draw_examples(path: Path, size: int = 256) -> Path:
    """Draw four maps of the validation set above their classes; returns the path of the PNG file."""
    from .maps import PALETTE

    figure, axes = make_figure(2, 4, width=1.8, height=1.8)
    for index in range(4):
        drawn = draw_map(0, 'val', index, size)
        palette = [[channel / 255 for channel in colour] for colour in PALETTE]
        colours = [[palette[label] for label in row] for row in drawn.labels.tolist()]
        for axis, picture in zip(axes[:, index], (drawn.image, colours)):
            axis.imshow(picture)
            axis.set_axis_off()
    return save_figure(figure, path)


def write_page(page: Path, text: str) -> None:
    """Write the section into a page, at its end where it has none yet.

    Args:
        page: Markdown file.
        text: Of :func:`study_section`.

    Raises:
        ValueError: The page has a part of the markers.
    """
    content = page.read_text()
    if f'<!-- {SECTION}:' not in content:
        page.write_text(f'{content.rstrip()}\n\n{TITLE}\n\n<!-- {SECTION}: begin -->\n<!-- {SECTION}: end -->\n')
    update_section(page, SECTION, text)
