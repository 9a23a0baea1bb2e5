"""Compare the values of label images with the classes of a config, over the whole data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .data_sources import Source
from .findings import Findings
from .images import Decoder, ImageTable


@dataclass(frozen=True)
class LabelFact:
    """What a label image holds.

    Attributes:
        size: Height and width, in pixels.
        values: Its different values.
        counts: Pixels of each value.
        problem: Why it cannot be used, empty if it can.
        is_coloured: Whether it holds colours instead of numbers.
        is_damaged: Whether its end is missing although it decodes.
    """

    size: tuple[int, int] = (0, 0)
    values: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    problem: str = ''
    is_coloured: bool = False
    is_damaged: bool = False


@dataclass
class LabelTable:
    """The label images of a data set.

    Attributes:
        classes: The config's classes; if the config selects some of the data set's own classes, all of these.
        first: Value of the first class: 1 with ``reduce_zero_label``, else 0.
        ignored: The value that stands for no class, for losses and metrics.
        images: See :class:`mmtwins.datasets.images.ImageTable`.
        paths: Of the label images, in the order of the images.
        decoder: How the pipeline reads them.
        facts: Of those that were looked at, by index.
    """

    classes: tuple[str, ...]
    first: int
    ignored: int
    images: ImageTable
    paths: Sequence[str]
    decoder: Decoder
    facts: dict[int, LabelFact] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """Value of the last class."""
        return len(self.classes) - 1 + self.first

    def pixels(self) -> Counter[int]:
        """Pixels of each value in all label images that were looked at."""
        found: Counter[int] = Counter()
        for fact in self.facts.values():
            found.update(dict(zip(fact.values, fact.counts)))
        return found

    def class_pixels(self) -> list[int]:
        """Pixels of each class, in the order of the classes."""
        pixels = self.pixels()
        return [pixels.get(value, 0) for value in range(self.first, self.last + 1)]

    def images_with(self) -> Counter[int]:
        """Label images that have each value."""
        return Counter(value for fact in self.facts.values() for value in fact.values)


def report_values(table: LabelTable, source: Source, where: str, findings: Findings) -> None:
    """Report values that are no class, and signs that classes are numbered in another way.

    Args:
        table: All label images that were looked at.
        source: The data set.
        where: Folder of the label images.
        findings: Gets what is wrong.
    """
    allowed = {*range(table.first, table.last + 1), *([0] if table.first else [])}
    allowed.add(table.ignored)
    usable = {i: fact for i, fact in table.facts.items() if not fact.problem}
    pixels = table.pixels()
    wrong = {
        i: value
        for i, fact in usable.items()
        if (value := next((v for v in fact.values if v not in allowed), None)) is not None
    }
    if wrong:
        values = sorted({value for value in pixels if value not in allowed})
        shown = ', '.join(map(str, values[:10])) + (' ...' if len(values) > 10 else '')
        text = (
            f'{len(wrong):,} of {len(usable):,} label images have values that are no class: {shown}; with '
            f'{len(table.classes)} classes they go from {table.first} to {table.last}{", and 0 is other" if table.first else ""}'
        )
        cases = [f'{table.paths[i]} has {value}' for i, value in wrong.items()]
        findings.add('label-value', where, text, _value_remedy(table, pixels, values), cases=cases)
    found = {value for value in pixels if table.first <= value <= table.last and value != table.ignored}
    nothing = [table.paths[i] for i, fact in usable.items() if not set(fact.values) & found]
    if usable and not found and not wrong:
        text = 'no pixel has a class, all are ignored'
        remedy = 'Correct the label images or reduce_zero_label'
        findings.add('no-label', where, text, remedy, cases=nothing, is_error=source.splits != ('test',))
        return
    if nothing and not wrong:
        text = f'{len(nothing):,} of {len(usable):,} label images have no pixel of a class'
        findings.add('label-empty', where, text, 'Remove them if that is wrong', cases=nothing, is_error=False)
    if wrong or not usable:
        return
    step = source.steps.get('CheckLabels')
    if step and step.get('ignore_label') is None and pixels.get(table.ignored) and table.ignored > table.last:
        text = f'{pixels[table.ignored] / sum(pixels.values()):.1%} of the pixels are {table.ignored}, and of no class'
        remedy = f'Write ignore_label={table.ignored} for CheckLabels if that is meant'
        cases = [table.paths[i] for i, fact in usable.items() if table.ignored in fact.values]
        findings.add('label-ignored', where, text, remedy, is_error=False, cases=cases)
    empty = [name for value, name in enumerate(table.classes, table.first) if value not in found]
    if len(found) == 1 and len(table.classes) > 1:
        only = table.classes[next(iter(found)) - table.first]
        text = f'all pixels that count are of one class, {only!r}'
        hint = f'; {table.ignored} stands for no class' if pixels.get(table.ignored) else ''
        findings.add('one-class', where, text, f'Correct the values in the label images{hint}.', count=len(usable))
    elif seems_offset(table):
        text = (
            f'the values 0 to {table.last - 1} occur and {table.last}, the last class, never does: the classes seem to begin '
            'with 0, but with reduce_zero_label=True 0 is ignored and they begin with 1'
        )
        findings.add(
            'label-offset', where, text, 'Set reduce_zero_label=False, or correct the label images.', count=len(usable)
        )
    elif empty and source.is_training:
        text = f'{len(empty)} of {len(table.classes)} classes have no pixel'
        findings.add('class-empty', where, text, 'Expect nothing for these classes', is_error=False, cases=empty)


def seems_offset(table: LabelTable) -> bool:
    """Whether values seem one too small for ``reduce_zero_label``: all from 0 on occur, except the last."""
    found = set(table.pixels()) - {table.ignored}
    return table.first == 1 and len(table.classes) > 1 and found == set(range(table.last))


def _value_remedy(table: LabelTable, pixels: Counter[int], wrong: list[int]) -> str:
    if wrong == [table.last + 1] and not table.first and not pixels.get(0):
        return 'The classes seem to begin with 1: subtract 1 from all values, or name the class 0'
    if wrong == [table.last + 1] and not table.first:
        return (
            'If 0 means no class and classes begin with 1, set reduce_zero_label=True; otherwise add the missing class'
        )
    return f'Correct the values or the classes of the config; pixels of no class are {table.ignored}'
