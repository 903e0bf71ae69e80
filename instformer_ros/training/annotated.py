"""``instformer train youtube-vis | lv-vis | coco``: the paper's two stages on annotated data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from instformer_ros.data.datasets import read_dataset
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import TextEncoder
from instformer_ros.paths import find_model
from instformer_ros.structures import InstformerError
from instformer_ros.training.claim import claim
from instformer_ros.training.loop import Session, run_stage
from instformer_ros.training.mixture import FrameBatches, Mixture, Source, follow, mix
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
    also: tuple[Source, ...] = ()  # data sets that are trained on together with it

    @property
    def sources(self) -> tuple[Source, ...]:
        """All data sets, the main one first."""
        return Source(self.dataset, self.annotations, self.images), *self.also


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
    mixture = mix([source.read() for source in work.sources], [source.weight for source in work.sources])
    scores = _scores(work, model, session) if session.evaluate_every else None
    kept = ("dataset", "annotations", "images", "model", "stage")  # what the result depends on
    also = "; ".join(map(str, work.also)) or "nothing"
    plan = {**{key: str(getattr(work, key)) for key in kept}, "also": also, "seed": seed, **asdict(recipe)}
    claim(session.folder, {**plan, "accumulate": session.accumulate}, session.team)
    if work.stage != "2":
        train_instances(model, mixture, recipe.stage1, seed, session, scores)
    if work.stage != "1":
        train_rollout(model, mixture, recipe.stage2, seed, session, scores)
    path = session.folder / "model.safetensors"
    if session.team.leads:
        licences, notes = header["licences"], header["notes"]
        assert isinstance(licences, dict) and isinstance(notes, dict)
        names = ", ".join(dict.fromkeys(source.dataset for source in work.sources))
        told = f"{names}, stage {work.stage}, seed {seed}; the licences of the data hold as well"
        checkpoint.save(model, path, licences, {**notes, "trained_on": told})
    return path


def train_instances(
    model: InstFormer,
    mixture: Mixture,
    recipe: InstanceRecipe,
    seed: int,
    session: Session,
    scores: Scores | None = None,
) -> None:
    """Stage 1: the proposal network and InstCLIP's adapters together."""
    texts = TextEncoder(model.instclip, model.config.clip)(mixture.classes).clone()
    stage = InstanceStage(model, texts, recipe.options)
    share, padding = session.share(recipe.batch), model.config.proposals.pixel_mean
    run_stage(
        "instances",
        stage,
        lambda: FrameBatches(mixture, share, seed, recipe.short_side, padding),
        recipe.schedule,
        session,
        scaled={"masks.proposals.backbone.": recipe.backbone_factor},
        evaluate=scores,
    )


def train_rollout(
    model: InstFormer,
    mixture: Mixture,
    recipe: RolloutRecipe,
    seed: int,
    session: Session,
    scores: Scores | None = None,
) -> None:
    """Stage 2: the rollout tracker alone, on tokens of videos drawn once.

    Raises:
        InstformerError: the model finds no object in them.
    """
    chosen = follow(mixture, recipe.videos, seed)

    def source() -> ClipBatches:
        videos = extract(model, len(chosen.videos), chosen.open, session.folder / "tokens", session.team)
        if not any((video.targets >= 0).any() for video in videos):
            raise InstformerError(
                "the model's masks meet no object of the videos, so there is nothing to follow; train stage 1"
            )
        return ClipBatches(videos, session.share(recipe.batch), seed, chosen.chances)

    stage = RolloutStage(model.rollout, recipe.mask_duplicates)
    run_stage("rollout", stage, source, recipe.schedule, session, evaluate=scores)


def _scores(work: Work, model: InstFormer, session: Session) -> Scores:
    if work.validation is None:
        raise InstformerError("--evaluate-every: give --validation-annotations and --validation-images as well")
    dataset = read_dataset(work.dataset, *work.validation)
    return functools.partial(video_scores, model, session.team.device, dataset, work.validation_videos)
