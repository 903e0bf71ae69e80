"""Joint training: several annotated data sets, one vocabulary, each with its share of the clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instformer_ros.data.clips import ClipOptions, ClipSampler, sample_clip
from instformer_ros.data.datasets import read_dataset
from instformer_ros.data.videos import Image, Masks, Video, VideoDataset
from instformer_ros.structures import InstformerError
from instformer_ros.training.frames import Frame, FrameBatch, collate
from instformer_ros.training.tokens import CLIP_FRAMES


@dataclass(frozen=True)
class Source:
    """Where a data set lies, and how much of it is wanted."""

    dataset: str  # "youtube-vis", "lv-vis" or "coco"
    annotations: Path
    images: Path
    weight: float = 1.0  # share of the clips, relative to the main set's 1

    def __str__(self) -> str:
        return f"{self.dataset} {self.annotations} {self.images} {self.weight}"

    def read(self) -> VideoDataset:
        """The data set, named by its file for later errors.

        Raises:
            InstformerError: files are missing or inconsistent.
        """
        found = read_dataset(self.dataset, self.annotations, self.images)
        return replace(found, name=f"{self.dataset} {self.annotations}")


@dataclass(frozen=True)
class Mixture:
    """Data sets that are trained on together."""

    datasets: tuple[VideoDataset, ...]
    weights: tuple[float, ...]  # share of the clips, relative to one another
    classes: tuple[str, ...]  # the training vocabulary; objects of other classes are left out


def mix(datasets: Sequence[VideoDataset], weights: Sequence[float]) -> Mixture:
    """One vocabulary of several data sets: what has the same name is the same class.

    Where a set tells base from novel classes, a novel one is trained on in none of them.

    Raises:
        InstformerError: no video of a data set shows a training class.
    """
    novel = {name for dataset in datasets for name in dataset.splits.get("novel", ())}
    offered = (name for dataset in datasets for name in dataset.splits.get("base", dataset.classes))
    classes = tuple(dict.fromkeys(name for name in offered if name not in novel))
    wanted = frozenset(classes)
    for dataset in datasets:
        if not any(name in wanted for video in dataset.videos for name in video.names):
            raise InstformerError(
                f"data set '{dataset.name}': no object of a training class; give annotations of 'train'"
            )
    return Mixture(tuple(datasets), tuple(weights), classes)


class FrameBatches:
    """Batches of single frames, augmented, by the number of the batch.

    Args:
        mixture: their data sets; labels count its classes.
        batch: frames of a batch.
        seed: of all chance.
        short_side: drawn evenly for each frame, in pixels.
        padding: RGB colour, 0-255, around frames that are smaller than the largest of their batch.
    """

    def __init__(
        self, mixture: Mixture, batch: int, seed: int, short_side: tuple[int, int], padding: Sequence[float]
    ) -> None:
        options = ClipOptions(frames=1, short_side=short_side)
        self._draw = ClipSampler(mixture.datasets, options, mixture.weights, mixture.classes)
        self._label = {name: index for index, name in enumerate(mixture.classes)}
        self._batch, self._seed, self._padding = batch, seed, padding

    def __call__(self, number: int) -> FrameBatch:
        """Raises InstformerError: a picture is missing, or no frame shows an object of the vocabulary."""
        frames = [self._frame(number * self._batch + row) for row in range(self._batch)]
        return collate(frames, self._padding)

    def _frame(self, index: int) -> Frame:
        clip = self._draw(np.random.default_rng([self._seed, 2, index]))
        return Frame(clip.images[0], clip.masks[0], [self._label[name] for name in clip.names])


@dataclass(frozen=True)
class Following:
    """Videos to learn following on; each still is one as a pseudo-clip of five frames."""

    videos: tuple[Video, ...]
    chances: tuple[float, ...]  # of each to be drawn
    classes: frozenset[str]
    seed: int

    def open(self, index: int) -> Iterator[tuple[Image, Masks]]:
        """The frames of a video, with the masks of the training classes alone; the same each time."""
        video = self.videos[index]
        known = [k for k, name in enumerate(video.names) if name in self.classes]
        if video.length == 1:
            options = ClipOptions(frames=CLIP_FRAMES, short_side=(0, 0), least_pixels=0)  # 0: as many masks as names
            clip = sample_clip(video, np.random.default_rng([self.seed, 5, index]), options)
            yield from zip(clip.images, clip.masks[:, known], strict=True)
        else:
            for t in range(video.length):
                image, masks = video.frame(t)
                yield image, masks[known]


def follow(mixture: Mixture, count: int, seed: int) -> Following:
    """``count`` videos that show a training class, drawn once: of each set by its weight, or all that it has."""
    rng, classes = np.random.default_rng([seed, 4]), frozenset(mixture.classes)
    shares = np.array(mixture.weights) / sum(mixture.weights)
    ends = np.rint(np.cumsum(shares) * count).astype(int)
    videos: list[Video] = []
    chances: list[float] = []
    for dataset, share, end, start in zip(mixture.datasets, shares, ends, [0, *ends[:-1]], strict=True):
        shown = [video for video in dataset.videos if any(name in classes for name in video.names)]
        chosen = rng.permutation(len(shown))[: max(1, end - start)].tolist()
        videos += [shown[index] for index in chosen]
        chances += [float(share) / len(chosen)] * len(chosen)
    return Following(tuple(videos), tuple(chances), classes, seed)
