"""What every source of frames has in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from instformer_ros.structures import InstformerError

Image = NDArray[np.uint8]

DEFAULT_FPS = 30.0
DEFAULT_FRAME_ID = "camera"


@dataclass(frozen=True)
class FrameHeader:
    """What a bag keeps beside the pixels of a frame."""

    sec: int  # the stamp: when it was taken
    nanosec: int
    frame_id: str  # the camera's optical frame (REP-103)
    logged: int  # nanoseconds, when it was recorded


class Source(ABC):
    """A sequence of frames: a context manager, and an iterable of RGB uint8 (H, W, 3) contiguous arrays of one size.

    Each new loop over a file, a folder or ToyVIS starts from its first frame.

    Attributes:
        name: Short, fit for a file name.
        fps: Frames a second; 30 where the source does not say, 10 for ToyVIS.
        length: Number of frames, capped at ``max_frames``; None if unknown. A video file's is what its header says.
        header: When and by which camera the frame given last was taken.
    """

    def __init__(self, name: str, fps: float, length: int | None, max_frames: int | None) -> None:
        self.name = name
        self.fps = fps if math.isfinite(fps) and 0.0 < fps <= 1000.0 else DEFAULT_FPS
        self.length = length if max_frames is None or length is None else min(length, max_frames)
        self.header = FrameHeader(0, 0, DEFAULT_FRAME_ID, 0)
        self._max_frames = max_frames

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Image]:
        """Raises InstformerError: a frame cannot be read, or has another size than the first."""
        size: tuple[int, ...] | None = None
        for index, (label, frame) in enumerate(islice(self._frames(), self._max_frames)):
            size = size or frame.shape
            if frame.shape != size:
                raise InstformerError(
                    f"{label}: {frame.shape[1]}x{frame.shape[0]} pixels, the frames before it "
                    f"{size[1]}x{size[0]}; make all frames the same size"
                )
            self.header = self._header(index)
            yield np.ascontiguousarray(frame)

    @abstractmethod
    def _frames(self) -> Iterator[tuple[str, Image]]:
        """All frames from the first, each with a label that an error names it by."""

    def _header(self, index: int) -> FrameHeader:
        """Of the frame that :meth:`_frames` gave last: by its number and the rate, where nothing better is known."""
        moment = round(index * 1e9 / self.fps)
        return FrameHeader(*divmod(moment, 10**9), DEFAULT_FRAME_ID, moment)

    def close(self) -> None:  # noqa: B027  (most sources hold nothing open)
        """Frees what the source holds; closing twice is harmless."""
