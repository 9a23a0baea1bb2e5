"""Arguments that several command lines share, and how a command line reports errors.

The ``add_...`` functions add arguments to a parser. They import neither torch nor MMEngine, so that help, completion and
errors of a command line come at once.
"""

import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config_names import complete_config

if TYPE_CHECKING:
    from mmengine.config import Config


@contextmanager
def readable_errors(*kinds: type[Exception], hint: str = '') -> Iterator[None]:
    """Turn what the user can correct, or has asked for, into one line.

    Errors (a value, a file, a missing package) end with exit code 1, Ctrl-C with 130.

    Args:
        kinds: Errors that the user can correct; by default ValueError, OSError and ImportError.
        hint: How to go on after Ctrl-C or a full disk.
    """
    from .console import silence_libraries

    hint = f' {hint}' if hint else ''
    silence_libraries()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # commands have another one for their imports
    try:
        yield
    except KeyboardInterrupt:
        print(f'\nstopped by Ctrl-C.{hint}', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f' of {error.filename}' if error.filename else ''
            sys.exit(f'error: the disk{place} is full ({error.strerror}): make room.{hint}')
        if isinstance(error, kinds or (ValueError, OSError, ImportError)):
            sys.exit(f'error: {error}')
        raise


class OptionAction(argparse.Action):
    """``--cfg-options``: MMEngine's DictAction, but spaces in names stay, and what is no KEY=VALUE is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the options to the namespace; ends the program with exit code 2 if one is wrong."""
        from mmengine.config import DictAction

        for value in values or ():
            if '=' not in value:
                parser.error(f'{option_string} {value}: give KEY=VALUE, such as {value}.type=NAME')
        try:
            kept = [_keep_spaces(value) for value in values or ()]  # MMEngine takes all of them out
            DictAction(self.option_strings, self.dest, nargs='+')(parser, namespace, kept, option_string)
            setattr(namespace, self.dest, _with_spaces(getattr(namespace, self.dest)))
        except AssertionError as error:
            parser.error(f'{option_string}: {error}')
        except RecursionError:  # how MMEngine reads a dict
            parser.error(f'{option_string} {" ".join(values or ())}: give one value for each key, such as a.b=1 a.c=2')


SPACE = '\0'  # stands for a space that is part of a text; no argument can have one
INSIDE = re.compile(r'(?<![,(\[\s]) +(?![,)\]\s])')


def _keep_spaces(option: str) -> str:
    """An option whose spaces inside texts are replaced; those beside brackets and commas mean nothing."""
    key, _, value = option.partition('=')
    return f'{key}={re.sub(INSIDE, lambda found: SPACE * len(found[0]), value.strip())}'


def _with_spaces(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_spaces(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_with_spaces, value))
    return value.replace(SPACE, ' ') if isinstance(value, str) else value


def image_size(text: str) -> tuple[int, int]:
    """Read an image size from a command line, for ``add_argument(type=image_size)``.

    Args:
        text: ``HxW`` in pixels such as ``'800x1344'``, or one side of a square such as ``'512'``.

    Returns:
        Height and width, in pixels.

    Raises:
        argparse.ArgumentTypeError: The text is no size.
    """
    found = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no image size: give height x width in pixels, such as 800x1344, or one side, such as 512'
        )
    height = int(found[1])
    return height, int(found[2] or height)


def add_config(parser: 'argparse._ActionsContainer', **options: Any) -> None:
    """Add ``config`` to a parser; ``options`` go to ``add_argument``."""
    kwargs = {'help': 'name of a recipe (`mmtwins list`), config file, or mmseg::NAME or mmdet::NAME', **options}
    # argcomplete calls this attribute of the action.
    parser.add_argument('config', **kwargs).completer = complete_config  # type: ignore[attr-defined]


def add_options(parser: 'argparse._ActionsContainer') -> None:
    """Add ``--cfg-options`` to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionAction,
        metavar='KEY=VALUE',
        help='override values of the config, such as data_root=FOLDER model.backbone.drop_path_rate=0.3 (default: none)',
    )


def add_config_with_options(parser: argparse.ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options`` to a parser."""
    add_config(parser)
    add_options(parser)


def add_checkpoint(parser: argparse.ArgumentParser, note: str = '') -> None:
    """Add ``checkpoint`` to a parser; the note ends its help."""
    parser.add_argument('checkpoint', help=f'checkpoint: a file, a URL, hf-hub:OWNER/NAME or imagenet:NAME{note}')


def add_device(parser: 'argparse._ActionsContainer', default: str | None = None) -> None:
    """Add ``--device``; a default of None means a GPU if there is one, see :func:`mmtwins.engine.checks.check_device`."""
    shown = default or 'a GPU if there is one'
    parser.add_argument('--device', default=default, help=f'such as cpu or cuda:0 (default: {shown})')


def add_launch(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--verbose`` and ``--launcher``, for programs that build a Runner, see :func:`config_from`."""
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/CONFIG NAME)')
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='show config, hooks and environment on the terminal (default: only in the log file)',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what starts the processes (default: %(default)s)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def config_from(args: argparse.Namespace) -> 'Config':
    """Load the config that a command line names, with its options, launcher, device and work directory.

    Args:
        args: Arguments of a parser with :func:`add_config_with_options`, :func:`add_device` and :func:`add_launch`.

    Returns:
        The config.

    Raises:
        FileNotFoundError, ImportError, ValueError: As :func:`mmtwins.engine.config.load_config`,
            :func:`mmtwins.engine.devices.use_device` and :func:`mmtwins.engine.distributed.check_launcher`.
    """
    from .config import load_config
    from .devices import use_device
    from .distributed import check_launcher

    use_device(args.device, args.launcher)
    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg
