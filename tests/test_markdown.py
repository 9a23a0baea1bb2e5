"""Tables in Markdown, and sections of a page."""

from pathlib import Path

import pytest

from mmtwins.markdown import markdown_table, read_section, update_section


def test_columns_of_numbers_are_aligned_right() -> None:
    lines = markdown_table(['name', 'kind', 'ms'], [['a', 'b', '1.0']], num_text=2)
    assert lines == ['| name | kind | ms |', '| --- | --- | ---: |', '| a | b | 1.0 |', '']


def test_tables_are_written_between_the_markers_of_a_section(tmp_path: Path) -> None:
    path = tmp_path / 'page.md'
    path.write_text(
        'a\n<!-- time: begin -->\nold\n<!-- time: end -->\nb\n<!-- memory: begin -->\n<!-- memory: end -->\n'
    )
    update_section(path, 'time', 'new')
    update_section(path, 'memory', 'more')
    assert path.read_text() == (
        'a\n<!-- time: begin -->\nnew\n<!-- time: end -->\nb\n<!-- memory: begin -->\nmore\n<!-- memory: end -->\n'
    )
    with pytest.raises(ValueError, match='has no section between <!-- other: begin -->'):
        update_section(path, 'other', '')


def test_a_section_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / 'page.md'
    path.write_text('a\n<!-- time: begin -->\nold\n<!-- time: end -->\nold\n')
    assert read_section(path, 'time') == '\nold\n'
    update_section(path, 'time', '')
    assert path.read_text() == 'a\n<!-- time: begin -->\n\n<!-- time: end -->\nold\n'
    with pytest.raises(ValueError, match='has no section between <!-- other: begin -->'):
        read_section(path, 'other')
