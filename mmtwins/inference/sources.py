"""What to predict on: files in folders, glob patterns and videos."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
Skip = Callable[[str, str], None]  # called with the name of what is skipped, and the reason


def find_sources(images: str | Path | np.ndarray | Iterable[str | Path | np.ndarray]) -> list[str | np.ndarray]:
    """Name the files that folders and glob patterns stand for.

    Args:
        images: As in :func:`mmtwins.infer`.

    Returns:
        Files and arrays, in order; files of a folder or pattern by name, without hidden ones. A file that is named in a
        list need not exist.

    Raises:
        FileNotFoundError: ``images`` names no file at all.
    """
    if isinstance(images, np.ndarray):
        return [images]
    if not isinstance(images, str | os.PathLike):
        return [s for entry in images for s in ([entry] if isinstance(entry, np.ndarray) else _find_files(entry))]
    name = os.fspath(images)
    found = _find_files(name)
    if os.path.isdir(name) and not found:
        raise FileNotFoundError(f'the folder {name} holds no files: name one with images')
    if found == [name] and not os.path.isfile(name):
        raise FileNotFoundError(f'{name}: no such file or folder, and no file matches it as a pattern')
    return list(found)


def without_results(sources: Sequence[str], given: str, out: str) -> list[str]:
    """Leave out what an earlier run wrote, where the folder of results lies inside the folder of images.

    Args:
        sources: Files, see :func:`find_sources`.
        given: Folder of images, or what else they were found by.
        out: Folder of results.

    Returns:
        The files outside ``out``.

    Raises:
        FileNotFoundError: All of them are inside.
    """
    folder, out = os.path.realpath(given), os.path.realpath(out)
    if not out.startswith(os.path.join(folder, '')):
        return list(sources)
    kept = [path for path in sources if not os.path.realpath(path).startswith(os.path.join(out, ''))]
    if not kept:
        raise FileNotFoundError(f'the folder {given} holds no files but results: name one with images')
    return kept


def find_all(given: Sequence[str], out: str) -> list[str]:
    """Name the files that several inputs stand for, each once, without the results of an earlier run.

    Args:
        given: Files, folders and glob patterns.
        out: Folder of results.

    Returns:
        Files, in the order of the inputs; a file that several inputs name has the place of the first.

    Raises:
        FileNotFoundError: An input names no file at all, or results only.
    """
    found: dict[str, str] = {}
    for name in given:
        for path in without_results([path for path in find_sources(name) if isinstance(path, str)], name, out):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _find_files(name: str | os.PathLike) -> list[str]:
    """The files that a name stands for; itself if there are none."""
    name = os.path.expanduser(os.fspath(name))
    if os.path.isdir(name):
        found = [
            os.path.join(folder, file)
            for folder, folders, files in os.walk(name)
            for file in files
            if not file.startswith('.') and not _is_hidden(os.path.relpath(folder, name))
        ]
        return sorted(found)
    if os.path.isfile(name):
        return [name]
    return sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path)) or [name]


def _is_hidden(folder: str) -> bool:
    return any(part.startswith('.') and part != '.' for part in folder.split(os.sep))


def is_video(source: str | np.ndarray) -> bool:
    """Whether a source is taken as a video, by the end of its name."""
    return isinstance(source, str) and source.lower().endswith(VIDEO_SUFFIXES)


def count_frames(path: str) -> int:
    """How many frames a video says it has; 0 if it does not say or cannot be read."""
    if not os.path.isfile(path):
        return 0
    with mmcv.VideoReader(path) as video:
        return max(0, video.frame_cnt)


def read_video(path: str, on_skip: Skip) -> Iterator[np.ndarray]:
    """Read a video frame by frame.

    Args:
        path: File.
        on_skip: Called with what cannot be read and the reason.

    Yields:
        (H, W, 3) BGR uint8.
    """
    if not os.path.isfile(path):
        on_skip(path, 'No such file or directory')
        return
    number = 0
    with mmcv.VideoReader(path) as video:
        while (frame := video.read()) is not None:
            number += 1
            yield frame
        expected = video.frame_cnt
    if not number:
        on_skip(path, 'no video, or of a format that OpenCV does not read')
    elif number < expected:
        on_skip(f'{path}, frames {number + 1} to {expected}', 'the video ends before them')
