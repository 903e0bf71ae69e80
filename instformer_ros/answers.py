"""Tracks become the instances that are published: named, above the threshold, in the order of their IDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros import masks
from instformer_ros.live_vocabulary import EncodedVocabulary
from instformer_ros.model.vocabulary import class_scores
from instformer_ros.settings import Settings
from instformer_ros.structures import Rle, TrackedInstance
from instformer_ros.tracking.tracker import Track, mean_tokens


@dataclass(frozen=True)
class Named:
    """A track with what the words in force say of it."""

    track: Track
    class_index: int  # of the best word; -1 when there is none
    class_name: str
    score: float
    class_scores: NDArray[np.float32] | None  # (K,), None when there are no words

    def instance(self, rle: Rle, with_class_scores: bool) -> TrackedInstance:
        """The instance as published; ``rle`` is its mask at the image's size."""
        track = self.track
        return TrackedInstance(
            track_id=track.id,
            state=track.state,
            age=track.age,
            frames_since_seen=track.frames_since_seen,
            label_value=(track.id - 1) % masks.LARGEST_LABEL + 1,
            class_index=self.class_index,
            class_name=self.class_name,
            score=self.score,
            objectness=track.objectness,
            box=masks.box(rle),
            rle=rle,
            class_scores=self.class_scores if with_class_scores else None,
        )


def name_tracks(
    tracks: Sequence[Track], settings: Settings, words: EncodedVocabulary, logit_scale: Tensor
) -> list[Named]:
    """Names the tracks and keeps the best of those above the score threshold, sorted by ID."""
    if not tracks:
        return []
    if words.names:
        negatives = words.negatives if settings.negatives else None
        table = class_scores(mean_tokens(tracks), words.embeddings, negatives, logit_scale).float().cpu().numpy()
        named = [
            Named(track, int(k), words.names[k], float(row[k]) * track.objectness, row)
            for track, k, row in zip(tracks, table.argmax(1), table, strict=True)
        ]
    else:
        named = [Named(track, -1, "", track.objectness, None) for track in tracks]
    kept = sorted((one for one in named if one.score >= settings.score_threshold), key=lambda one: -one.score)
    return sorted(kept[: settings.max_instances], key=lambda one: one.track.id)
