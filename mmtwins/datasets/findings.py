"""Faults that a check found, with counts, first cases and remedies, and the sentences made from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SHOWN_CASES = 5

# These may be intended, which a rule cannot know: `allow` makes them warnings.
ALLOWABLE = (
    'box-format',
    'box-outside',
    'box-dropped',
    'box-not-mask',
    'image-cut-off',
    'label-offset',
    'num-classes',
    'one-class',
    'unknown-image',
)


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one place.

    Attributes:
        code: Its name, such as ``'box-outside'``.
        is_error: Whether it stops a training; a warning is only counted.
        path: The file or folder that has it.
        text: What is wrong, without full stop.
        remedy: What to do, as an imperative.
        cases: The first cases, each by file and id.
        count: Number of cases.
    """

    code: str
    is_error: bool
    path: str
    text: str
    remedy: str
    cases: tuple[str, ...] = ()
    count: int = 1

    @property
    def sentence(self) -> str:
        """File, fault, cases and remedy in one line."""
        return f'{self.path}: {self.text}{self._shown_cases()}. {self.remedy}{self._hint()}'

    def _shown_cases(self) -> str:
        if not self.cases:
            return ''
        more = f' and {self.count - len(self.cases):,} more' if self.count > len(self.cases) else ''
        return f' ({"; ".join(self.cases)}{more})'

    def _hint(self) -> str:
        return f' If they are right as they are: --allow {self.code}.' if self.is_error and self.is_allowable else ''

    @property
    def is_allowable(self) -> bool:
        return self.code in ALLOWABLE

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it."""
        return dict(vars(self), cases=list(self.cases))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Finding':
        return cls(**{**values, 'cases': tuple(values['cases'])})


@dataclass
class Findings:
    """Collects findings; a code in ``allow`` is at most a warning."""

    allow: frozenset[str] = frozenset()
    found: list[Finding] = field(default_factory=list)

    def add(
        self,
        code: str,
        path: str,
        text: str,
        remedy: str,
        *,
        is_error: bool = True,
        cases: Iterable[str] = (),
        count: int | None = None,
    ) -> None:
        """Add a fault.

        Args:
            code: See :class:`Finding`, also for the other arguments.
            path: File or folder.
            text: What is wrong.
            remedy: What to do.
            is_error: Whether it stops a training.
            cases: All cases, or the first ones; only a few are kept.
            count: Number of cases; None counts ``cases``, and is at least 1.
        """
        every = list(cases) if not isinstance(cases, Sequence) else cases
        number = count if count is not None else max(len(every), 1)
        shown = tuple(_printable(case) for case in every[:SHOWN_CASES])
        self.found.append(
            Finding(code, is_error, str(path), _printable(text, 1000), _printable(remedy, 2000), shown, number)
        )

    def finish(self) -> list[Finding]:
        """All findings, errors first; allowed ones are warnings."""
        allowed = [
            replace(one, is_error=False) if one.code in self.allow and one.is_allowable else one for one in self.found
        ]
        return sorted(allowed, key=lambda one: not one.is_error)


def _printable(text: object, limit: int = 200) -> str:
    """Make text from an unknown file safe for one line of a terminal: no control characters, limited length."""
    shown = ''.join(char if char.isprintable() else f'\\x{ord(char):02x}' for char in str(text))
    return shown if len(shown) <= limit else f'{shown[: limit - 3]}...'


def check_allowed(codes: Iterable[str]) -> frozenset[str]:
    """The codes as a set; raises ValueError for a code that does not exist or cannot be allowed."""
    allowed = frozenset(codes)
    if wrong := sorted(allowed - set(ALLOWABLE)):
        raise ValueError(f'--allow {" ".join(wrong)}: choose from {", ".join(ALLOWABLE)}')
    return allowed
