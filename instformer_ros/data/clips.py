"""Training clips: a few frames of a video in order, augmented alike (paper Sec. 5.1).

A still image makes a pseudo-clip: each frame shows it through another small camera motion, so that COCO trains a
tracker too. :class:`ClipSampler` mixes several data sets, for joint training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.videos import Image, Masks, Video, VideoDataset
from instformer_ros.structures import InstformerError

_TRIES = 100  # draws in a row without a visible object, after which the data set is to blame


@dataclass(frozen=True)
class ClipOptions:
    """How clips are cut and changed; the defaults are for real videos."""

    frames: int = 5
    reach: int = 20  # frames of a clip lie within +-reach of its middle
    short_side: tuple[int, int] = (240, 480)  # drawn evenly, in pixels; (0, 0) keeps the size
    longest_side: int = 1333  # pixels; a longer picture is made smaller still
    flip: float = 0.5  # chance of a mirror image
    light: float = 0.2  # brightness, contrast and saturation change by up to this share; 0 = never
    turn: float = 15.0  # degrees that a pseudo-clip's frames are turned by at most ...
    zoom: float = 0.2  # ... the share that they are scaled by ...
    shift: float = 0.1  # ... and moved by, of the picture's size
    least_pixels: int = 12  # an object smaller than this in all frames is none


@dataclass
class Clip:
    """T frames of one video; K objects, each seen in one frame at least."""

    images: NDArray[np.uint8]  # (T, H, W, 3) RGB
    masks: NDArray[np.bool_]  # (T, K, H, W); all False where an object is not seen
    names: tuple[str, ...]  # (K,) their classes


class ClipSampler:
    """Draws clips from data sets: first the data set, by its weight, then a video, evenly.

    Args:
        datasets: at least one.
        options: how clips are made.
        weights: chance of each data set; by default in proportion to their numbers of videos.
        classes: objects of others are left out, and so are videos with no others; None = all.

    Raises:
        InstformerError: no data set, one without videos to draw from, or weights that are no chances.
    """

    def __init__(
        self,
        datasets: Sequence[VideoDataset],
        options: ClipOptions | None = None,
        weights: Sequence[float] | None = None,
        classes: Collection[str] | None = None,
    ) -> None:
        if not datasets:
            raise InstformerError("no data set to train on; give at least one")
        self._classes = None if classes is None else frozenset(classes)
        self._videos = [[video for video in d.videos if self._known(video.names)] for d in datasets]
        for dataset, videos in zip(datasets, self._videos, strict=True):
            if not videos:
                raise InstformerError(f"data set '{dataset.name}' holds no videos to train on; check its annotations")
        chances = np.array([len(d) for d in datasets] if weights is None else weights, dtype=np.float64)
        if chances.shape != (len(datasets),) or not (chances >= 0).all() or not 0 < chances.sum() < np.inf:
            raise InstformerError(f"weights {weights}: give one number >= 0 for each of {len(datasets)} data sets")
        self.datasets, self.options = tuple(datasets), options or ClipOptions()
        self._chances = chances / chances.sum()

    def __call__(self, rng: np.random.Generator) -> Clip:
        """A clip with at least one object; the same generator state gives the same clip.

        Raises:
            InstformerError: a picture is missing or bad, or videos without a visible object follow one another.
        """
        chosen = int(rng.choice(len(self.datasets), p=self._chances))  # once, so that shares are what they should be
        videos = self._videos[chosen]
        for _ in range(_TRIES):
            clip = sample_clip(videos[int(rng.integers(len(videos)))], rng, self.options)
            known = self._known(clip.names)
            if known:
                names = tuple(clip.names[k] for k in known)
                return clip if len(known) == len(clip.names) else Clip(clip.images, clip.masks[:, known], names)
        name = self.datasets[chosen].name
        raise InstformerError(f"data set '{name}': {_TRIES} clips in a row show no object; check its annotations")

    def _known(self, names: Sequence[str]) -> list[int]:
        """Which of the objects with these class names are wanted."""
        return [k for k, name in enumerate(names) if self._classes is None or name in self._classes]


def sample_clip(video: Video, rng: np.random.Generator, options: ClipOptions) -> Clip:
    """One augmented clip of a video, or pseudo-clip of a still; K may be 0."""
    chosen = draw_frames(rng, video.length, options)
    seen = {t: video.frame(t) for t in dict.fromkeys(chosen)}  # each picture is read once
    frames = [seen[t] for t in chosen]
    if video.length == 1:
        frames = [_move(rng, image, masks, options) for image, masks in frames]
    size = _size(rng, video.height, video.width, options)
    mirrored = bool(rng.random() < options.flip)
    light = rng.uniform(1 - options.light, 1 + options.light, 3)
    images, all_masks = [], []
    for image, masks in frames:
        image, masks = _resize(image, masks, size)
        if options.light:
            image = _relight(image, *light)
        images.append(image[:, ::-1] if mirrored else image)
        all_masks.append(masks[..., ::-1] if mirrored else masks)
    stacked = np.stack(all_masks)  # (T, K, H, W)
    kept = (stacked.sum((2, 3)) >= options.least_pixels).any(0)
    names = tuple(name for name, keep in zip(video.names, kept, strict=True) if keep)
    return Clip(np.ascontiguousarray(np.stack(images)), np.ascontiguousarray(stacked[:, kept]), names)


def draw_frames(rng: np.random.Generator, length: int, options: ClipOptions) -> list[int]:
    """Numbers of a clip's frames, in order, within ``reach`` of its middle; repeated only where there are too few."""
    middle = int(rng.integers(length))
    window = np.arange(max(0, middle - options.reach), min(length, middle + options.reach + 1))
    return [int(t) for t in np.sort(rng.choice(window, options.frames, replace=len(window) < options.frames))]


def _size(rng: np.random.Generator, height: int, width: int, options: ClipOptions) -> tuple[int, int]:
    """Height and width of the clip, in the video's proportions."""
    low, high = options.short_side
    scale = float(rng.integers(low, high + 1)) / min(height, width) if high else 1.0
    scale = min(scale, options.longest_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(image: Image, masks: Masks, size: tuple[int, int]) -> tuple[Image, Masks]:
    height, width = size
    if image.shape[:2] == size:
        return image, masks
    smaller = height < image.shape[0]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    # Nearest pixel by their centres, as the picture is; all objects at once.
    rows = ((np.arange(height) + 0.5) * image.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * image.shape[1] / width).astype(int)
    return np.asarray(resized, np.uint8), masks[:, rows[:, None], columns]


def _move(rng: np.random.Generator, image: Image, masks: Masks, options: ClipOptions) -> tuple[Image, Masks]:
    """A still through a camera that is turned, moved and zoomed a little. What comes into view is grey."""
    height, width = image.shape[:2]
    angle = float(rng.uniform(-options.turn, options.turn))
    scale = float(np.exp(rng.uniform(-1, 1) * np.log1p(options.zoom)))
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale), np.float64)
    matrix[:, 2] += rng.uniform(-options.shift, options.shift, 2) * np.array([width, height])
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(124, 116, 104))
    out = np.zeros_like(masks)
    for k, mask in enumerate(masks):
        out[k] = cv2.warpAffine(mask.view(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8), out


def _relight(image: Image, brightness: float, contrast: float, saturation: float) -> Image:
    """Scales brightness, contrast (about mid-grey) and saturation (about the pixel's own grey)."""
    pixels = image.astype(np.float32) * brightness
    pixels = (pixels - 128) * contrast + 128
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels = (pixels - grey[..., None]) * saturation + grey[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
