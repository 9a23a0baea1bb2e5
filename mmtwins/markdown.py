"""Tables in Markdown, and the sections of a page that a tool keeps up to date."""

from collections.abc import Sequence
from pathlib import Path


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], num_text: int = 1) -> list[str]:
    """The lines of a table, an empty one last; the first ``num_text`` columns hold text, the others numbers."""
    lines = [titles, ['---'] * num_text + ['---:'] * (len(titles) - num_text), *rows]
    return [f'| {" | ".join(line)} |' for line in lines] + ['']


def read_section(path: str | Path, section: str) -> str:
    """What stands between ``<!-- SECTION: begin -->`` and ``<!-- SECTION: end -->`` in a Markdown file.

    Raises:
        ValueError: The file has no such section.
    """
    begin, end = f'<!-- {section}: begin -->', f'<!-- {section}: end -->'
    content = Path(path).read_text()
    if content.count(begin) != 1 or end not in content.split(begin)[1]:
        raise ValueError(f'{path} has no section between {begin} and {end}: add these lines')
    return content.split(begin)[1].split(end)[0]


def update_section(path: str | Path, section: str, text: str) -> None:
    """Replace what stands between ``<!-- SECTION: begin -->`` and ``<!-- SECTION: end -->`` in a Markdown file.

    Raises:
        ValueError: The file has no such section.
    """
    begin, old = f'<!-- {section}: begin -->', read_section(path, section)
    Path(path).write_text(Path(path).read_text().replace(f'{begin}{old}', f'{begin}\n{text}\n', 1))
