"""``instformer train youtube-vis | lv-vis | coco``: the paper's two stages on annotated data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from instformer_ros.data.clips import ClipOptions, ClipSampler
from instformer_ros.data.datasets import read_dataset
from instformer_ros.data.videos import Image, Masks, Video, VideoDataset
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import TextEncoder
from instformer_ros.paths import find_model
from instformer_ros.structures import InstformerError
from instformer_ros.training.claim import claim
from instformer_ros.training.frames import Frame, FrameBatch, collate
from instformer_ros.training.loop import Session, run_stage
from instformer_ros.training.recipe import InstanceRecipe, Recipe, RolloutRecipe
from instformer_ros.training.stage1 import InstanceStage
from instformer_ros.training.stage2 import RolloutStage
from instformer_ros.training.tokens import ClipBatches, extract
from instformer_ros.training.validation import video_scores
from instformer_ros.weights import checkpoint

STAGES = ("instances", "rollout")
Scores = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Work:
    """What to train on what."""

    dataset: str  # "youtube-vis", "lv-vis" or "coco"
    annotations: Path
    images: Path
    model: str  # name or path of the checkpoint to start from
    stage: str = "both"  # "1", "2" or "both"
    validation: tuple[Path, Path] | None = None  # annotations and pictures that the model is scored on meanwhile
    validation_videos: int = 50  # the first so many


class FrameBatches:
    """Batches of single frames, augmented, by the number of the batch.

    Args:
        dataset: its videos or stills.
        vocabulary: names of the training classes; objects of others are left out.
        batch: frames of a batch.
        seed: of all chance.
        short_side: drawn evenly for each frame, in pixels.
        padding: RGB colour, 0-255, around frames that are smaller than the largest of their batch.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        vocabulary: Sequence[str],
        batch: int,
        seed: int,
        short_side: tuple[int, int],
        padding: Sequence[float],
    ) -> None:
        self._draw = ClipSampler([dataset], ClipOptions(frames=1, short_side=short_side))
        self._label = {name: index for index, name in enumerate(vocabulary)}
        self._batch, self._seed, self._padding = batch, seed, padding

    def __call__(self, number: int) -> FrameBatch:
        """Raises InstformerError: a picture is missing, or no frame shows an object of the vocabulary."""
        frames = [self._frame(number * self._batch + row) for row in range(self._batch)]
        return collate(frames, self._padding)

    def _frame(self, index: int) -> Frame:
        rng = np.random.default_rng([self._seed, 2, index])
        while True:  # ends: every data set has an object of its vocabulary, see training_classes
            clip = self._draw(rng)
            known = [k for k, name in enumerate(clip.names) if name in self._label]
            if known:
                return Frame(clip.images[0], clip.masks[0, known], [self._label[clip.names[k]] for k in known])


def training_classes(dataset: VideoDataset) -> tuple[str, ...]:
    """The classes that may be trained on: the base ones, where there are base and novel ones.

    Raises:
        InstformerError: no video shows one of them.
    """
    classes = dataset.splits.get("base", dataset.classes)
    if not any(name in classes for video in dataset.videos for name in video.names):
        raise InstformerError(f"data set '{dataset.name}': no object of a training class; give annotations of 'train'")
    return classes


def train_annotated(work: Work, recipe: Recipe, seed: int, session: Session) -> Path:
    """The stages asked for; those that ended in an earlier run are loaded. Returns the checkpoint's path.

    Raises:
        InstformerError: files are missing or inconsistent, or the folder holds the progress of another training.
    """
    for batch in (recipe.stage1.batch, recipe.stage2.batch):
        session.share(batch)  # what cannot be shared is better refused now than after stage 1
    source = find_model(work.model)
    header = checkpoint.read_header(source)
    model = checkpoint.load(source).to(session.team.device)
    dataset = read_dataset(work.dataset, work.annotations, work.images)
    classes = training_classes(dataset)
    scores = _scores(work, model, session) if session.evaluate_every else None
    kept = ("dataset", "annotations", "images", "model", "stage")  # what the result depends on
    plan = {**{key: str(getattr(work, key)) for key in kept}, "seed": seed, **asdict(recipe)}
    claim(session.folder, {**plan, "accumulate": session.accumulate}, session.team)
    if work.stage != "2":
        train_instances(model, dataset, classes, recipe.stage1, seed, session, scores)
    if work.stage != "1":
        train_rollout(model, dataset, classes, recipe.stage2, seed, session, scores)
    path = session.folder / "model.safetensors"
    if session.team.leads:
        licences, notes = header["licences"], header["notes"]
        assert isinstance(licences, dict) and isinstance(notes, dict)
        told = f"{work.dataset}, stage {work.stage}, seed {seed}; its licence holds as well"
        checkpoint.save(model, path, licences, {**notes, "trained_on": told})
    return path


def train_instances(
    model: InstFormer,
    dataset: VideoDataset,
    classes: Sequence[str],
    recipe: InstanceRecipe,
    seed: int,
    session: Session,
    scores: Scores | None = None,
) -> None:
    """Stage 1: the proposal network and InstCLIP's adapters together."""
    texts = TextEncoder(model.instclip, model.config.clip)(classes).clone()
    stage = InstanceStage(model, texts, recipe.options)
    share, padding = session.share(recipe.batch), model.config.proposals.pixel_mean
    run_stage(
        "instances",
        stage,
        lambda: FrameBatches(dataset, classes, share, seed, recipe.short_side, padding),
        recipe.schedule,
        session,
        scaled={"masks.proposals.backbone.": recipe.backbone_factor},
        evaluate=scores,
    )


def train_rollout(
    model: InstFormer,
    dataset: VideoDataset,
    classes: Sequence[str],
    recipe: RolloutRecipe,
    seed: int,
    session: Session,
    scores: Scores | None = None,
) -> None:
    """Stage 2: the rollout tracker alone, on tokens of videos drawn once.

    Raises:
        InstformerError: the data set has no videos, only stills; or the model finds no object in them.
    """
    moving = [video for video in dataset.videos if video.length > 1 and any(name in classes for name in video.names)]
    if not moving:
        raise InstformerError(f"data set '{dataset.name}' has no videos for stage 2; train it on another, or --stage 1")
    chosen = np.random.default_rng([seed, 4]).permutation(len(moving))[: recipe.videos].tolist()

    def source() -> ClipBatches:
        videos = extract(
            model, len(chosen), lambda index: _frames(moving[chosen[index]], classes), session.folder / "tokens",
            session.team,
        )  # fmt: skip
        if not any((video.targets >= 0).any() for video in videos):
            raise InstformerError(
                "the model's masks meet no object of the videos, so there is nothing to follow; train stage 1"
            )
        return ClipBatches(videos, session.share(recipe.batch), seed)

    stage = RolloutStage(model.rollout, recipe.mask_duplicates)
    run_stage("rollout", stage, source, recipe.schedule, session, evaluate=scores)


def _scores(work: Work, model: InstFormer, session: Session) -> Scores:
    if work.validation is None:
        raise InstformerError("--evaluate-every: give --validation-annotations and --validation-images as well")
    dataset = read_dataset(work.dataset, *work.validation)
    return functools.partial(video_scores, model, session.team.device, dataset, work.validation_videos)


def _frames(video: Video, classes: Sequence[str]) -> Iterator[tuple[Image, Masks]]:
    """Frames with the masks of the training classes alone."""
    known = [k for k, name in enumerate(video.names) if name in classes]
    for t in range(video.length):
        image, masks = video.frame(t)
        yield image, masks[known]
