"""Tracks become the instances that are published: named, above the threshold, in the order of their IDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros import masks
from instformer_ros.kept_masks import KeptMasks
from instformer_ros.live_vocabulary import EncodedVocabulary
from instformer_ros.settings import Settings
from instformer_ros.stopwatch import Stopwatch
from instformer_ros.structures import Rle, TrackedFrame, TrackedInstance
from instformer_ros.tracking.tracker import Track


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


class Naming:
    """What the words say of the tracks of one camera.

    A track's class is that of the mean of its instance tokens. Logits are linear in them, so their mean is the same: a
    frame's come to the host with all else that is wanted of it there, and the device is not asked again.
    """

    def __init__(self) -> None:
        self._words: EncodedVocabulary | None = None
        self._negatives = False
        self._texts = torch.empty(0)  # (E, C) words and negatives, scaled
        self._sums: dict[int, NDArray[np.float32]] | None = None  # as Track.token_sum, of logits; by track ID

    def use(self, words: EncodedVocabulary, negatives: bool, logit_scale: Tensor) -> None:
        """From now on these words count, and the negatives against them if so asked. Cheap if they do already."""
        if self._words is words and self._negatives == negatives:
            return
        texts = torch.cat([words.embeddings, words.negatives]) if negatives else words.embeddings
        self._words, self._negatives, self._texts = words, negatives, logit_scale.exp() * texts.t()
        self._sums = None

    def logits(self, tokens: Tensor) -> Tensor:
        """(N, E) instance tokens -> (N, C) on the device; C = 0 when there are no words."""
        return tokens @ self._texts if self._words and self._words.names else tokens[:, :0]

    def name(self, tracks: Sequence[Track], logits: NDArray[np.float32], settings: Settings) -> list[Named]:
        """Names the tracks and keeps the best of those above the score threshold, sorted by ID.

        Args:
            tracks: all that :meth:`.Tracker.update` returned.
            logits: (N, C) of the frame, as :meth:`logits` gives them.
            settings: thresholds.
        """
        if self._words and self._words.names and tracks:
            names, table = self._words.names, self._scores(tracks, logits)
            named = [
                Named(track, int(k), names[k], float(row[k]) * track.objectness, row)
                for track, k, row in zip(tracks, table.argmax(1), table, strict=True)
            ]
        else:
            named = [Named(track, -1, "", track.objectness, None) for track in tracks]
        kept = sorted((one for one in named if one.score >= settings.score_threshold), key=lambda one: -one.score)
        return sorted(kept[: settings.max_instances], key=lambda one: one.track.id)

    def _scores(self, tracks: Sequence[Track], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(K, V) softmax over words and negatives, of the words alone."""
        assert self._words is not None
        if self._sums is None:  # other words: what tracks have been so far has no logits yet
            table = (torch.stack([track.token_sum for track in tracks]) @ self._texts).cpu().numpy()
            self._sums = {track.id: row for track, row in zip(tracks, table, strict=True)}
        else:
            self._sums = {track.id: self._sum(track, self._sums.get(track.id), logits) for track in tracks}
        weights = np.array([max(track.weight, 1e-6) for track in tracks], np.float32)
        means = np.stack([self._sums[track.id] for track in tracks]) / weights[:, None]
        shares = np.exp(means - means.max(1, keepdims=True))
        return shares[:, : len(self._words.names)] / shares.sum(1, keepdims=True)

    @staticmethod
    def _sum(track: Track, before: NDArray[np.float32] | None, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if track.proposal is None:  # it was not seen
            return np.zeros(logits.shape[1], np.float32) if before is None else before
        seen = np.float32(track.objectness) * logits[track.proposal]
        return seen if before is None else before + seen


class PendingFrame:
    """The answer to a frame, but for its masks. The network is no longer needed, and may be at the next frame."""

    def __init__(self, frame: TrackedFrame, seen: Sequence[TrackedInstance], kept: KeptMasks) -> None:
        """``seen``: those of the frame's instances that have a mask, in the order of the ``kept`` ones."""
        self.frame = frame
        self._seen, self._kept = seen, kept

    def finish(self) -> TrackedFrame:
        """The frame with its masks. May be called in another thread than all else."""
        watch = Stopwatch(self.frame.timings)
        with watch("masks"):
            for instance, rle in zip(self._seen, self._kept.encode(), strict=True):
                instance.rle, instance.box = rle, masks.box(rle)
        return self.frame
