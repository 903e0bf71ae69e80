"""Where frames come from: a video, a folder of pictures, a bag, a webcam or ToyVIS, all behind one :class:`Source`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.bags import BagSource, is_bag
from instformer_ros.data.source import DEFAULT_FPS, Image, Source
from instformer_ros.data.toyvideo import ToyVideo
from instformer_ros.paths import user_path
from instformer_ros.structures import InstformerError

# FFmpeg writes lines about a bad file to stderr, and we say it in one. OpenCV reads this when it opens its first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TOYVIS_FPS = 10.0


class _Video(Source):
    def __init__(self, path: Path, max_frames: int | None) -> None:
        self._path = path
        capture = self._open()
        count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS))
        readable, _ = capture.read()
        capture.release()
        if not readable:
            raise InstformerError(f"video '{path}': it has no frame that can be read; check that it plays")
        super().__init__(path.stem, fps, count if count > 0 else None, max_frames)

    def _open(self) -> cv2.VideoCapture:
        # Left to itself OpenCV also tries to read a bad file as a numbered series of pictures.
        known = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
        with _quiet():
            capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG if known else cv2.CAP_ANY)
        if not capture.isOpened():
            raise InstformerError(f"video '{self._path}': not a video that can be opened; convert it to mp4 (H.264)")
        return capture

    def _frames(self) -> Iterator[tuple[str, Image]]:
        capture = self._open()
        try:
            yield from _captured(capture, f"video '{self._path}'")
        finally:
            capture.release()


class _Pictures(Source):
    def __init__(self, name: str, paths: list[Path], max_frames: int | None) -> None:
        self._paths = paths
        read_picture(paths[0])  # a wrong folder is better refused at once than at the first frame
        super().__init__(name, DEFAULT_FPS, len(paths), max_frames)

    def _frames(self) -> Iterator[tuple[str, Image]]:
        return ((f"picture '{path}'", read_picture(path)) for path in self._paths)


class _ToyVis(Source):
    def __init__(self, seed: int, max_frames: int | None) -> None:
        self._video = ToyVideo(seed)
        super().__init__(f"toyvis-{seed}", TOYVIS_FPS, self._video.length, max_frames)

    def _frames(self) -> Iterator[tuple[str, Image]]:
        return ((f"{self.name} frame {t}", self._video.frame(t)[0]) for t in range(self._video.length))


class _Webcam(Source):
    def __init__(self, number: int, max_frames: int | None) -> None:
        with _quiet():
            self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InstformerError(f"webcam {number}: cannot be opened; check that it is plugged in and free")
        super().__init__(f"webcam-{number}", float(self._capture.get(cv2.CAP_PROP_FPS)), None, max_frames)

    def _frames(self) -> Iterator[tuple[str, Image]]:
        return _captured(self._capture, self.name)

    def close(self) -> None:
        self._capture.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps OpenCV from printing what we are about to say ourselves."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _captured(capture: cv2.VideoCapture, label: str) -> Iterator[tuple[str, Image]]:
    index = 0
    while True:
        good, frame = capture.read()
        if not good:
            return
        yield f"{label} frame {index}", _rgb(frame)
        index += 1


def _rgb(frame: NDArray[Any]) -> Image:
    colour = cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB)
    return np.asarray(colour, np.uint8)


def read_picture(path: Path, upright: bool = True) -> Image:
    """One picture file, (H, W, 3) uint8 RGB.

    Args:
        upright: turn it as its EXIF data say. Data sets are annotated on the pixels as they are stored: False for them.

    Raises:
        InstformerError: it is missing or cannot be read.
    """
    if not path.exists():
        raise InstformerError(f"picture '{path}': not there; check the folder of pictures")
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        data = np.fromfile(path, np.uint8)
        frame = cv2.imdecode(data, flags) if data.size else None
    except (OSError, cv2.error):
        frame = None
    if frame is None:
        raise InstformerError(f"picture '{path}': cannot be read; remove it or save it anew")
    return _rgb(frame)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which frame 9 comes before frame 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.name.lower())]


def _whole(text: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value.strip()):
        kind = text.partition(":")[0]
        raise InstformerError(f"source '{text}': write {kind}: and a whole number, for example {kind}:0")
    return int(value)


def open_source(text: str | Path, max_frames: int | None = None, topic: str = "") -> Source:
    """Opens a source and looks at its first frame.

    Args:
        text: A video file, a picture, a folder of pictures (in natural order), a rosbag2 (folder, .mcap or .db3),
            ``toyvis:SEED`` or ``webcam:NUMBER``.
        max_frames: Stop after that many, at least 1; None takes all.
        topic: The images of a bag; may be left out where only one topic has images.

    Raises:
        InstformerError: nothing is there, it cannot be read or holds no frame, or ``max_frames`` is below 1. What lies
            further in (an unreadable picture, another size) is raised when the loop comes to it.
    """
    if max_frames is not None and max_frames < 1:
        raise InstformerError(f"max_frames {max_frames}: use 1 or more")
    text = str(text).strip()
    path = user_path(text)
    if text and is_bag(path):
        return BagSource(path, topic, max_frames)
    if topic:
        raise InstformerError(f"source '{text}': is no bag, so there is no topic '{topic}' in it; leave the topic out")
    kind, _, value = text.partition(":")
    if kind == "toyvis":
        return _ToyVis(_whole(text, value), max_frames)
    if kind == "webcam":
        return _Webcam(_whole(text, value), max_frames)
    if not text or not path.exists():
        raise InstformerError(f"source '{text}': no such file or folder; give a video, a folder, a bag or toyvis:SEED")
    if not os.access(path, os.R_OK):
        raise InstformerError(f"source '{text}': may not be read; check its permissions")
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
        if not found:
            raise InstformerError(f"folder '{text}': holds no pictures ({', '.join(PICTURES)}); give another one")
        return _Pictures(path.resolve().name, sorted(found, key=_natural), max_frames)
    if path.suffix.lower() in PICTURES:
        return _Pictures(path.stem, [path], max_frames)
    return _Video(path, max_frames)
