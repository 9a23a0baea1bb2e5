"""What the page keeps for each user, and for how long. No user gets files or predictions of another one."""

import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ..analysis.inspection import Inspection
from .kept import KeptResult

MAX_KEPT_PIXELS = 2**26  # of all users' images together; the newest is always kept


@dataclass
class Session:
    """What one user has open.

    Attributes:
        kept: The prediction.
        upload: Uploaded file of the image, deleted with the session; None for an example.
        inspection: Attention of the last point.
        downloads: Files made for the user, by kind, for each pair of threshold and palette.
        folders: Folders of files made for the user, by purpose.
    """

    kept: KeptResult
    upload: Path | None = None
    inspection: Inspection | None = None
    downloads: dict[tuple, dict[str, str]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)


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
            self._drop(key)
            self._open[key] = session
            while len(self._open) > 1 and sum(map(_pixels, self._open.values())) > MAX_KEPT_PIXELS:
                self._drop(next(iter(self._open)))

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
                raise ValueError('there is no image, or it is no longer kept: choose one')
            return self._open[key]

    def close(self, key: str) -> None:
        """Forget the session of a tab, if there is one, and delete its files."""
        with self._lock:
            self._drop(key)

    def new_folder(self, session: Session, purpose: str) -> Path:
        """Make a folder for files of a session; it replaces the folder of the same purpose.

        Args:
            session: Of the user that the files are for.
            purpose: Such as ``'download'``.

        Returns:
            The new, empty folder.
        """
        if purpose in session.folders:
            shutil.rmtree(session.folders[purpose], ignore_errors=True)
        session.folders[purpose] = Path(tempfile.mkdtemp(dir=self._folder, prefix=f'{purpose}-'))
        return session.folders[purpose]

    def discard(self, upload: str | Path) -> None:
        """Delete an uploaded file, unless a session has it open."""
        path = Path(upload).resolve()
        if path.is_relative_to(self._folder) and path not in [session.upload for session in self._open.values()]:
            path.unlink(missing_ok=True)

    def _drop(self, key: str) -> None:
        session = self._open.pop(key, None)
        if session is None:
            return
        if session.upload:
            self.discard(session.upload)  # two users may have uploaded the same file
        for folder in session.folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def _pixels(session: Session) -> int:
    return session.kept.image.shape[0] * session.kept.image.shape[1]
