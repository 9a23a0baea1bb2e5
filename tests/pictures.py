"""Images and videos written and read for tests."""

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, image: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return str(path)


def write_video(path: Path, image: np.ndarray, frames: int, rate: float = 12) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, image.shape[1::-1])
    for i in range(frames):
        writer.write(np.roll(image, 8 * i, axis=1))
    writer.release()
    return str(path)


def read_frames(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames
