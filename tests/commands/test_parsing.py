"""Parsers of the commands: names of programs, brackets in help, and help without rich-argparse."""

import argparse
import importlib.util
import sys

import pytest

from mmtwins.commands import parsing, predict
from mmtwins.commands.parsing import new_parser, parse, parser_of, refuse


@pytest.mark.parametrize(
    ('called', 'command', 'program'),
    [
        ('/venv/bin/mmtwins', 'predict', 'mmtwins predict'),
        ('tools/infer.py', 'predict', 'infer.py'),
        ('tools/gsa_cost.py', 'cost', 'gsa_cost.py'),
        ('tools/get_complexity.py', 'cost', 'get_complexity.py'),
        ('somewhere/doctor.py', 'doctor', 'mmtwins doctor'),
    ],
)
def test_a_program_has_the_name_that_it_was_called_by(
    called: str, command: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', [called])
    assert parser_of(command).prog == program


def test_brackets_and_literals_in_help(capsys: pytest.CaptureFixture) -> None:
    parser = new_parser('p', 'Takes ``[red]`` and [bold].', 'example:\n  mmtwins x [y]')
    parser.add_argument('--a', help='as [dim]this[/dim] (default: %(default)s)', default='[b]')
    parser.print_help()
    text = capsys.readouterr().out
    for part in ('Takes [red] and [bold].', 'as [dim]this[/dim] (default: [b])', 'example:\n  mmtwins x [y]\n'):
        assert part in text


def test_help_without_rich_argparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'rich_argparse', None)
    monkeypatch.setattr(sys, 'argv', ['mmtwins'])
    spec = importlib.util.spec_from_file_location('mmtwins.commands.plain_parsing', parsing.__file__)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    assert plain.FORMATTER is not parsing.FORMATTER
    text = plain.parser_of('predict').format_help()
    assert text.startswith('usage: mmtwins predict ')
    assert predict.EXAMPLE in text


def test_with_rich_argparse_help_is_rich() -> None:
    rich_argparse = pytest.importorskip('rich_argparse')
    assert issubclass(parsing.FORMATTER, rich_argparse.RichHelpFormatter)


def test_arguments_of_a_command_are_read_and_refused(capsys: pytest.CaptureFixture) -> None:
    args = parse('mmtwins.commands.predict', ['c', 'x', 'a', 'b', '--out', 'o'])
    assert isinstance(args, argparse.Namespace)
    assert (args.config, args.checkpoint, args.input, args.out) == ('c', 'x', ['a', 'b'], 'o')
    with pytest.raises(SystemExit, match='2'):
        refuse('mmtwins.commands.predict', 'a reason')
    assert 'error: a reason' in capsys.readouterr().err
