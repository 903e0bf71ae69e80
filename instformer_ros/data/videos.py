"""Annotated videos as the training and the evaluation take them, whatever benchmark they come from.

A reader (:mod:`.youtube_vis`, :mod:`.burst`, :mod:`.coco`) makes a :class:`VideoDataset` of a benchmark's files.
Masks are held as run lengths, pictures are read when a frame is asked for. :class:`.toyvideo.ToyVideo` is a
:class:`Video` too, so whatever takes the one takes the other. A still image is a video of one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from instformer_ros import masks as mask_tools
from instformer_ros.data.sources import read_picture
from instformer_ros.structures import InstformerError, Rle

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Masks = NDArray[np.bool_]  # (K, H, W)


class Video(Protocol):
    """K objects over ``length`` frames of one size; ``names`` holds the class name of each object."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def frame(self, t: int) -> tuple[Image, Masks]:
        """Frame ``t``: (H, W, 3) uint8 RGB, and (K, H, W) bool, all False where an object is not seen."""
        ...


@dataclass(frozen=True, slots=True)
class VideoObject:
    """One annotated object. Its masks have the size of the video."""

    name: str  # its class
    counts: tuple[bytes | None, ...]  # compressed run lengths of each frame; None where it is not seen
    object_id: int = 0  # the file's own


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """One video of a benchmark. ``frame`` reads its picture from the disk each time."""

    video_id: int  # the file's own; counted from 1 where the file has none
    name: str  # for people, and for the files of results
    height: int
    width: int
    files: tuple[Path, ...]
    objects: tuple[VideoObject, ...] = field(repr=False)

    @property
    def length(self) -> int:
        return len(self.files)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.objects)

    def __iter__(self) -> Iterator[tuple[Image, Masks]]:
        return (self.frame(t) for t in range(self.length))

    def frame(self, t: int) -> tuple[Image, Masks]:
        """Frame ``t``, see :class:`Video`.

        Raises:
            IndexError: ``t`` is not in 0..length - 1.
            InstformerError: the picture is missing, cannot be read, or has not the size that the annotations say.
        """
        return self.image(t), self.masks(t)

    def image(self, t: int) -> Image:
        """The picture alone, (H, W, 3) uint8 RGB; raises as :meth:`frame`."""
        image = read_picture(self._file(t), upright=False)
        if image.shape[:2] != (self.height, self.width):
            raise InstformerError(
                f"picture '{self.files[t]}': {image.shape[1]}x{image.shape[0]} pixels, but the annotations of video "
                f"'{self.name}' say {self.width}x{self.height}; take the pictures that belong to the annotations"
            )
        return image

    def masks(self, t: int) -> Masks:
        """The masks alone, (K, H, W) bool; raises as :meth:`frame`, or if run lengths are damaged."""
        self._file(t)
        out = np.zeros((len(self.objects), self.height, self.width), np.bool_)
        for k, rle in enumerate(self.rles(t)):
            if rle is not None:
                try:
                    out[k] = mask_tools.decode(rle)
                except InstformerError as error:
                    raise InstformerError(f"video '{self.name}', frame {t}, object {k}: {error}") from error
        return out

    def rles(self, t: int) -> list[Rle | None]:
        """Run lengths of the K objects in frame ``t``; None where one is not seen."""
        size = [self.height, self.width]
        counts = (o.counts[t] for o in self.objects)
        return [None if c is None else Rle(size=list(size), counts=c) for c in counts]

    def _file(self, t: int) -> Path:
        if not 0 <= t < self.length:
            raise IndexError(f"frame {t} of video '{self.name}', which has {self.length}")
        return self.files[t]


@dataclass(frozen=True)
class VideoDataset:
    """A benchmark's videos. Crowds and ignored regions are left out: they are no objects to learn from."""

    name: str
    videos: Sequence[Video]
    classes: tuple[str, ...]  # the vocabulary: names as said by people ("giant panda"), in the order of the file
    category_ids: tuple[int, ...] = ()  # the file's id of each class, for results
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # classes of "base", "novel", "common" ...

    def __len__(self) -> int:
        return len(self.videos)
