"""Videos of overlays: H.264, which every browser plays, by PyAV; MPEG-4 part 2 by OpenCV where PyAV is not installed."""

import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..installing import how_to_install

NOTE = f'videos are written as MPEG-4 part 2, which browsers do not play. For H.264 {how_to_install("video")}'


def has_h264() -> bool:
    """Whether PyAV is installed and its FFmpeg can write H.264."""
    try:
        from av.codec import Codec

        Codec('h264', 'w')
    except (ImportError, ValueError):
        return False
    return True


class VideoWriter:
    """Write the frames of a video one by one; :meth:`close` makes the file complete.

    Args:
        path: File to write, ``.mp4``; its folder is made.
        rate: Frames a second.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, rate: float, height: int, width: int) -> None:
        self.path = path
        self.height, self.width = height + height % 2, width + width % 2  # the codecs halve the resolution of colours
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = None
        if has_h264():
            import av

            self._container = av.open(str(path), 'w', options={'movflags': 'faststart'})
            self._stream: Any = self._container.add_stream('h264', rate=Fraction(rate).limit_denominator(1001))
            self._stream.width, self._stream.height, self._stream.pix_fmt = self.width, self.height, 'yuv420p'
        else:
            code = cv2.VideoWriter_fourcc(*'mp4v')  # type: ignore[attr-defined]  # not in OpenCV's stubs
            self._opencv = cv2.VideoWriter(str(path), code, rate, (self.width, self.height))
            if not self._opencv.isOpened():
                raise OSError(
                    f'{path} cannot be written: this OpenCV has no MPEG-4 encoder, or no file may be made there'
                )

    def add(self, frame: np.ndarray) -> None:
        """Write a frame, (height, width, 3) RGB uint8."""
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, self.height - height), (0, self.width - width), (0, 0)))
        if self._container is None:
            self._opencv.write(np.ascontiguousarray(frame[..., ::-1]))
            return
        import av

        self._mux(av.VideoFrame.from_ndarray(frame, format='rgb24'))

    def close(self) -> None:
        """Write what is left."""
        if self._container is None:
            self._opencv.release()
            return
        try:
            self._mux(None)
        finally:
            self._close_container()

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError as error:
            self._fail(error)

    def _close_container(self) -> None:
        try:
            self._container.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        code = error.errno or errno.EIO
        raise OSError(code, os.strerror(code), str(self.path)) from error
