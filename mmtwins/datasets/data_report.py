"""The result of a check as text, as JSON and as an exit code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .findings import Finding

SHOWN_SHARES = 10  # in the text; the JSON file has all


@dataclass
class SourceReport:
    """One data set of a config.

    Attributes:
        name: Its splits and its place in the config.
        path: Annotation file, or folder of images.
        numbers: What was counted, by name.
        findings: What is wrong, errors first.
        shares: Share of each class in the boxes to train with, or in all pixels, from 0 to 1.
    """

    name: str
    path: str
    numbers: dict[str, int | str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The lines of the report for a terminal."""
        numbers = [f'{n:,} {name}' if isinstance(n, int) else f'{name} {n}' for name, n in self.numbers.items()]
        counted = ', '.join(numbers)
        lines = [f'{self.name} ({self.path})', f'  {counted or "nothing could be counted"}']
        if self.shares:
            largest = sorted(self.shares.items(), key=lambda item: -item[1])
            more = f' and {len(largest) - SHOWN_SHARES} more' if len(largest) > SHOWN_SHARES else ''
            lines.append('  ' + ', '.join(f'{name} {share:.1%}' for name, share in largest[:SHOWN_SHARES]) + more)
        for one in self.findings:
            lines.append(f'  {"error  " if one.is_error else "warning"} [{one.code}] {one.sentence}')
        return lines if self.findings else [*lines, '  nothing wrong']

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self), findings=[one.to_dict() for one in self.findings])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'SourceReport':
        return cls(**{**values, 'findings': [Finding.from_dict(one) for one in values['findings']]})


@dataclass
class Report:
    """All data sets of a config.

    Attributes:
        sources: One part for each data set.
        fast: Whether only a sample of the images was looked at.
    """

    sources: list[SourceReport]
    fast: bool = False

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop a training."""
        return [one for source in self.sources for one in source.findings if one.is_error]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are only counted."""
        return [one for source in self.sources for one in source.findings if not one.is_error]

    def exit_code(self, strict: bool = False) -> int:
        """0 if a training can start, 1 if not; ``strict`` counts warnings as errors."""
        return int(bool(self.errors or (strict and self.warnings)))

    @property
    def text(self) -> str:
        """The whole report for a terminal."""
        lines = [line for source in self.sources for line in [*source.lines(), '']]
        part = ' in a sample of the images' if self.fast else ''
        return '\n'.join([*lines, f'{_count(self.errors, "error")} and {_count(self.warnings, "warning")}{part}'])

    def raise_errors(self) -> None:
        """Raise a ValueError with the first errors in full, if there are any."""
        errors = self.errors
        if errors:
            more = f'\n{len(errors) - 3} more: run `mmtwins check-data`' if len(errors) > 3 else ''
            raise ValueError('the data cannot be trained on\n' + '\n'.join(one.sentence for one in errors[:3]) + more)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return dict(fast=self.fast, sources=[source.to_dict() for source in self.sources])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Report':
        return cls([SourceReport.from_dict(one) for one in values['sources']], values['fast'])

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON and create the folders for it; returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=2) + '\n')
        return path


def _count(items: Sequence[Any], name: str) -> str:
    return f'{len(items) or "no"} {name}{"" if len(items) == 1 else "s"}'
