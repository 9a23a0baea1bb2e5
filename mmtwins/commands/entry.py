"""The entry point of `mmtwins`: find the command, complete its arguments in a shell, and run it."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from .. import __version__
from .parsing import new_parser, parser_of
from .table import COMMANDS

DESCRIPTION = 'Twins-SVT and Twins-PCPVT backbones for MMSegmentation and MMDetection.'
EXAMPLE = 'mmtwins list --task detection'


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins ARGV``.

    Args:
        argv: Arguments; None takes those of the program.

    Raises:
        SystemExit: Always; with 0, or 1 for errors, 2 for wrong arguments, 130 after Ctrl-C.
    """
    if '_ARGCOMPLETE' in os.environ:
        _complete()
    argv = sys.argv[1:] if argv is None else list(argv)
    if sys.stdout is None:  # closed, as by `>&-`
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
    if argv and argv[0] in COMMANDS:
        try:
            sys.exit(import_module(f'.{COMMANDS[argv[0]].module}', __package__).main(argv[1:]))
        except BrokenPipeError:  # the reader of our output has gone, as in `mmtwins list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(f'error: {error.strerror}: make room')
    parser = _top_parser()
    if argv and not argv[0].startswith('-'):
        similar = get_close_matches(argv[0], COMMANDS, 1)
        hint = f': perhaps {similar[0]} is meant' if similar else f': choose from {", ".join(COMMANDS)}'
        parser.error(f'{argv[0]!r} is no command{hint}')
    parser.parse_args(argv)
    parser.print_help()
    sys.exit(0 if not argv else 2)


def _top_parser() -> argparse.ArgumentParser:
    """A parser for options before a command; its help lists the commands."""
    epilog = f'mmtwins COMMAND --help explains a command. Example:\n  {EXAMPLE}'
    parser = new_parser('mmtwins', DESCRIPTION, epilog)
    parser.add_argument('--version', action='version', version=f'mmtwins {__version__}')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', prog='mmtwins')
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    return parser


def _complete() -> None:
    """Answer a shell that completes a command line, and exit; do nothing if argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    parser = _top_parser()
    words = os.environ.get('COMP_LINE', '').split()
    name = next((word for word in words[1:] if word in COMMANDS), None)
    if name:  # only the parser that is needed: some modules import slowly
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        commands._name_parser_map[name] = parser_of(name)
    argcomplete.autocomplete(parser, always_complete_options='long')
