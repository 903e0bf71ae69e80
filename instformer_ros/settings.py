"""What may be tuned while the engine runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from instformer_ros.structures import InstformerError

LifeCycle = Literal["managed", "slots"]


@dataclass(frozen=True)
class Settings:
    """All live: ``engine.settings = replace(engine.settings, score_threshold=0.5)`` holds from the next frame on.

    Raises:
        InstformerError: a value is out of its range; the message names field, value and range.
    """

    score_threshold: float = 0.05  # publication: least objectness x class score (objectness alone without words)
    objectness_threshold: float = 0.7  # birth: least objectness that founds a track
    keep_threshold: float = 0.5  # least objectness that continues a track
    match_threshold: float = 0.15  # least cosine similarity that continues a track
    duplicate_threshold: float = 0.3  # a proposal whose mask overlaps a better one's by this IoU is dropped; 1 = never
    max_coast: int = 30  # frames a track is kept unseen before it ends
    max_instances: int = 100  # most instances published of a frame, best first
    life_cycle: LifeCycle = "managed"
    negatives: bool = True  # let unpublished negatives compete with the vocabulary
    class_scores: bool = False  # fill TrackedInstance.class_scores

    def __post_init__(self) -> None:
        for name in ("score_threshold", "objectness_threshold", "keep_threshold", "duplicate_threshold"):
            self._within(name, 0.0, 1.0)
        self._within("match_threshold", -1.0, 1.0)
        self._within("max_coast", 0, 100_000)
        self._within("max_instances", 1, 1000)
        if self.life_cycle not in get_args(LifeCycle):
            raise InstformerError(f"life_cycle is '{self.life_cycle}'; use one of {', '.join(get_args(LifeCycle))}")

    def _within(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most:  # also refuses NaN
            raise InstformerError(f"{name} is {value}; use {least} to {most}")
