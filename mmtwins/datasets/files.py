"""Check, without opening them, that files can be read: they are regular and not empty, and the system accepts their names."""

import os
import stat
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, 'is a folder'),
    (stat.S_ISFIFO, 'is a pipe'),
    (stat.S_ISSOCK, 'is a socket'),
    (stat.S_ISCHR, 'is a device'),
    (stat.S_ISBLK, 'is a device'),
)


def file_problem(path: str | Path) -> str:
    """Say why a file cannot be read. Pipes are refused: reading one would hang for ever.

    Args:
        path: Path of a file.

    Returns:
        A reason such as ``'does not exist'``; empty if the file can be read.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 'is a link to nothing' if os.path.islink(path) else 'does not exist'
    except (OSError, ValueError) as error:  # ValueError: a null byte, or half of a surrogate pair
        return f'cannot be read ({getattr(error, "strerror", None) or error})'
    if not stat.S_ISREG(found.st_mode):
        return next((text for matches, text in KINDS if matches(found.st_mode)), 'is no file')
    if not found.st_size:
        return 'is empty'
    return '' if os.access(path, os.R_OK) else 'cannot be read (permission denied)'


def folder_problem(path: str | Path) -> str:
    """Say why a folder cannot be used; empty if it exists and has something in it."""
    try:
        with os.scandir(path) as entries:
            return '' if next(entries, None) else 'is empty'
    except FileNotFoundError:
        return 'does not exist'
    except NotADirectoryError:
        return 'is a file, not a folder'
    except (OSError, ValueError) as error:
        return f'cannot be read ({getattr(error, "strerror", None) or error})'


class FileIndex:
    """Checks whether files exist, by listing each folder once instead of asking for every file."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str]] = {}

    def problem(self, path: str) -> str:
        """Like :func:`file_problem`, but does not notice empty files."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = set()
            try:
                with os.scandir(folder or '.') as entries:
                    self._folders[folder] = {entry.name for entry in entries if _is_file(entry)}
            except (OSError, ValueError):
                pass
        return '' if name in self._folders[folder] else file_problem(path)


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circle of links
        return False
