"""Parsers of the commands, with rich help where rich-argparse is installed."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import ClassVar, NoReturn

from .bars import waiting
from .table import COMMANDS

try:
    from rich_argparse import RawDescriptionRichHelpFormatter

    class _Formatter(RawDescriptionRichHelpFormatter):
        text_markup = help_markup = False  # brackets are brackets
        group_name_formatter = str
        styles: ClassVar[dict] = {**RawDescriptionRichHelpFormatter.styles, 'argparse.example': 'bold'}
        highlights: ClassVar[list[str]] = [*RawDescriptionRichHelpFormatter.highlights, r'^  (?P<example>mmtwins .*)$']

    FORMATTER: type[argparse.HelpFormatter] = _Formatter
except Exception:  # not installed, as after `pip install --no-deps`, or broken: `mmtwins doctor` must still run
    FORMATTER = argparse.RawDescriptionHelpFormatter


def new_parser(program: str, description: str | None, epilog: str = '') -> argparse.ArgumentParser:
    """Make a parser without arguments.

    Args:
        program: Name of the program, such as ``mmtwins train``.
        description: Docstring of its module; double backticks are removed.
        epilog: End of its help.

    Returns:
        The parser.
    """
    text = re.sub(r'``(.*?)``', r'\1', (description or '').strip())
    return argparse.ArgumentParser(program, description=text, epilog=epilog, formatter_class=FORMATTER)


def parser_of(name: str, module: ModuleType | None = None) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        name: Name of the command, out of :data:`mmtwins.commands.table.COMMANDS`.
        module: Its module; None imports it.

    Returns:
        The parser, with the arguments of the command.
    """
    command = COMMANDS[name]
    module = module or import_module(f'.{command.module}', __package__)
    called = Path(sys.argv[0]).name
    program = called if command.tool and called in (command.tool, *getattr(module, 'TOOLS', ())) else f'mmtwins {name}'
    example = getattr(module, 'EXAMPLE', '')
    parser = new_parser(program, module.__doc__, f'example:\n  {example}' if example else '')
    module.add_arguments(parser)
    return parser


def parse(module: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments of a command.

    Args:
        module: ``__name__`` of its module.
        argv: Arguments; None takes those of the program.

    Returns:
        The arguments. Wrong ones end the program with exit code 2.
    """
    return _parser_in(module).parse_args(argv)


def refuse(module: str, message: str) -> NoReturn:
    """End the program with exit code 2, because arguments do not fit each other.

    Args:
        module: ``__name__`` of the command's module.
        message: Names the arguments, what is wrong and what to do.
    """
    _parser_in(module).error(message)


def _parser_in(module: str) -> argparse.ArgumentParser:
    (name,) = (name for name, command in COMMANDS.items() if command.module == module.rpartition('.')[2])
    return parser_of(name, sys.modules[module])


def register() -> None:
    """Import torch and MMEngine, and register our modules there, as ``import mmtwins`` does in other programs.

    That may take many seconds, which a terminal shows; of several processes of a training, the first one alone.
    """
    with waiting('importing PyTorch') if os.environ.get('RANK', '0') == '0' else nullcontext():
        import_module('mmtwins.registration')
