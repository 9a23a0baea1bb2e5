"""A local web server, which answers as the Hugging Face hub does too, and keeps a record of what was asked."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = '0123456789abcdef0123456789abcdef01234567'


class Server:
    """What a test needs of the server.

    Args:
        folder: What it serves. ``hub(...)`` files lie where the hub has them.
        url: Its address.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.fetched: list[str] = []  # paths of GET requests
        self.asked: list[str] = []  # of HEAD requests
        self.delay = 0.0  # seconds before an answer
        self.stated: dict[str, str] = {}  # SHA-256 by path, where it is not that of the file

    def hub(self, repository: str, content: bytes, revision: str = COMMIT, name: str = 'model.safetensors') -> str:
        """Serve a file of a repository; returns its SHA-256."""
        return self.file(f'{repository}/resolve/{revision}/{name}', content)

    def file(self, path: str, content: bytes) -> str:
        """Serve a file; returns its SHA-256."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)
        return hashlib.sha256(content).hexdigest()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: object, record: Server, **kwargs: object) -> None:
        self.record = record
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if not self.path.startswith('/api/'):  # what the hub's client asks beside the files
            self.record.fetched.append(self.path)
        time.sleep(self.record.delay)
        super().do_GET()

    def do_HEAD(self) -> None:
        self.record.asked.append(self.path)
        time.sleep(self.record.delay)
        super().do_HEAD()

    def end_headers(self) -> None:
        path = self.record.folder / self.path.lstrip('/')
        if '/resolve/' in self.path and path.is_file():
            stated = self.record.stated.get(self.path, hashlib.sha256(path.read_bytes()).hexdigest())
            self.send_header('ETag', f'"{stated}"')
            self.send_header('X-Repo-Commit', COMMIT)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder, which is made, on a free port of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    record = Server(folder, '')
    handler = partial(_Handler, directory=str(folder), record=record)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        record.url = f'http://127.0.0.1:{server.server_port}'
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield record
        finally:
            server.shutdown()
