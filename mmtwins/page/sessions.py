"""What the page keeps for each user, and for how long. No user gets files or predictions of another one."""

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..analysis.inspection import Inspection
from .kept import KeptResult

MAX_KEPT_PIXELS = 2**26  # of all users' images together; the newest is always kept
GONE = 'there is no image, or it is no longer kept: choose one'


class MadeFiles(NamedTuple):
    """Files made for a user.

    Attributes:
        choices: What they were made from.
        folder: Holds them and nothing else.
        paths: By kind.
    """

    choices: tuple
    folder: Path
    paths: dict[str, str]


@dataclass
class Session:
    """What one user has open.

    Attributes:
        kept: The prediction.
        upload: Uploaded file of the image, deleted with the session; None for an example.
        inspection: Attention of the last point.
        made: Files made for the user, by purpose.
        closed: Its files are deleted, and no more are made.
        lock: Held while files are made or deleted.
    """

    kept: KeptResult
    upload: Path | None = None
    inspection: Inspection | None = None
    made: dict[str, MadeFiles] = field(default_factory=dict)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """Delete the files made for the user, once none is being made."""
        with self.lock:
            self.closed = True
            for made in self.made.values():
                shutil.rmtree(made.folder, ignore_errors=True)


class Sessions:
    """The open sessions by key. The key is Gradio's hash of a browser tab.

    Args:
        folder: Folder of all files of the page; no file outside it is ever deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self, key: str, session: Session) -> None:
        """Keep a session; it replaces the one of the same tab. The oldest ones are closed if there are too many pixels.

        Args:
            key: Of the tab.
            session: What the tab has open.
        """
        with self._lock:
            dropped = self._drop(key)
            self._open[key] = session
            while len(self._open) > 1 and sum(map(_pixels, self._open.values())) > MAX_KEPT_PIXELS:
                dropped += self._drop(next(iter(self._open)))
        for one in dropped:  # without the lock: no user waits for the files of another
            one.close()

    def get(self, key: str) -> Session:
        """Look up a session.

        Args:
            key: Of the tab.

        Returns:
            The session of the tab.

        Raises:
            ValueError: The tab has no session.
        """
        with self._lock:
            if key not in self._open:
                raise ValueError(GONE)
            return self._open[key]

    def close(self, key: str) -> None:
        """Forget the session of a tab, if there is one, and delete its files."""
        with self._lock:
            dropped = self._drop(key)
        for one in dropped:
            one.close()

    def make_files(
        self, session: Session, purpose: str, choices: tuple, write: Callable[[Path], dict[str, str]]
    ) -> dict[str, str]:
        """Make files for a user; they replace the earlier ones of the same purpose.

        The same choices give the same files again, because a browser may send an event twice at the same time.

        Args:
            session: Of the user.
            purpose: Such as ``'download'``.
            choices: What the files depend on.
            write: Writes them to an empty folder and returns their paths by kind.

        Returns:
            Paths of the files by kind.

        Raises:
            ValueError: The session is closed.
        """
        with session.lock:
            if session.closed:
                raise ValueError(GONE)
            last = session.made.get(purpose)
            if last and last.choices == choices and all(Path(path).is_file() for path in last.paths.values()):
                return last.paths
            folder = Path(tempfile.mkdtemp(dir=self._folder, prefix=f'{purpose}-'))
            try:
                paths = write(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            session.made[purpose] = MadeFiles(choices, folder, paths)
            if last:
                shutil.rmtree(last.folder, ignore_errors=True)
            return paths

    def discard(self, upload: str | Path) -> None:
        """Delete an uploaded file, unless a session has it open."""
        with self._lock:
            self._discard(upload)

    def _discard(self, upload: str | Path) -> None:
        path = Path(upload).resolve()
        if path.is_relative_to(self._folder) and path not in [session.upload for session in self._open.values()]:
            path.unlink(missing_ok=True)

    def _drop(self, key: str) -> list[Session]:
        """Forget a session and its upload; returns it for :meth:`Session.close`, if there is one."""
        session = self._open.pop(key, None)
        if session is None:
            return []
        if session.upload:
            self._discard(session.upload)  # two users may have uploaded the same file
        return [session]


def _pixels(session: Session) -> int:
    return session.kept.image.shape[0] * session.kept.image.shape[1]
