"""Fetch files into the cache of this machine: once, with a progress bar, and without long waits where there is no network."""

import hashlib
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import torch

TIMEOUT = 10  # seconds without an answer, after which a server counts as out of reach
HASHED_NAME = re.compile(r'-([0-9a-f]{8,})\.\w+$')  # of torch.hub and OpenMMLab: the first digits of the SHA-256


def fetch(url: str, sha256: str = '') -> Path:
    """Path of a URL's file in torch's cache; fetched first if it is not there, by one process of a machine for all.

    Args:
        url: What to fetch.
        sha256: The first digits of the file's SHA-256, checked after fetching; empty checks nothing.

    Returns:
        The file.

    Raises:
        OSError: It cannot be fetched.
        RuntimeError: It has another SHA-256; then nothing is kept.
    """
    path = cache_path(url)
    if path.is_file():
        return path
    with locked(path):
        if not path.is_file():  # another process may have fetched it
            path.parent.mkdir(parents=True, exist_ok=True)
            with _limited_waits():
                torch.hub.download_url_to_file(url, str(path), sha256 or None, progress=sys.stderr.isatty())
    return path


def cache_path(url: str) -> Path:
    """Where a URL is kept: by name if the name carries a hash of the content, else in a folder of its own."""
    name = Path(urlsplit(url).path).name
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    return folder / name if HASHED_NAME.search(name) else folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def has_sha256(path: Path, digits: str) -> bool:
    """Whether the SHA-256 of a file starts with these digits."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest().startswith(digits)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out that want to write this file.

    Where no lock can be made, there is none: files are moved into the cache whole, so two processes only do the same twice.
    """
    from filelock import FileLock

    lock = FileLock(f'{path}.lock')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):  # a cache that is read-only, or on a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _limited_waits() -> Iterator[None]:
    """Give up on servers that do not answer, which torch.hub waits for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
