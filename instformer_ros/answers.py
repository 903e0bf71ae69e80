"""Tracks become the instances that are published: named, above the threshold, in the order of their IDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros import masks
from instformer_ros.devices import device_errors
from instformer_ros.kept_masks import KeptMasks
from instformer_ros.live_vocabulary import EncodedVocabulary
from instformer_ros.model.vocabulary import class_logits
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


class _Sum(NamedTuple):
    """Of the logits of the frames that a track was seen in, weighted by objectness; in double, for hours of frames."""

    logits: NDArray[np.float64]  # (C,)
    weight: float


class Naming:
    """What the words say of the tracks of one camera.

    A track's class is that of the mean of its instance tokens. Logits are linear in them, so their mean is the same: a
    frame's come to the host with all else that is wanted of it there, and the device is not asked again.
    """

    def __init__(self) -> None:
        self._words: EncodedVocabulary | None = None
        self._negatives = False
        self._scale = torch.tensor(0.0)  # CLIP's learnt log temperature
        self._sums: dict[int, _Sum] | None = None  # by track ID; None: to be made from the tracks' tokens

    def use(self, words: EncodedVocabulary, negatives: bool, logit_scale: Tensor) -> None:
        """From now on these words count, and the negatives against them if so asked. Cheap if they do already."""
        if self._words is not words or self._negatives != negatives:
            self._words, self._negatives, self._scale, self._sums = words, negatives, logit_scale, None

    def logits(self, tokens: Tensor) -> Tensor:
        """(N, E) instance tokens, or sums of them -> (N, C) on the device; C = 0 when there are no words."""
        if self._words is None or not self._words.names:
            return tokens[:, :0]
        texts = self._words.texts if self._negatives else self._words.embeddings
        return class_logits(tokens, texts, self._scale)

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
            table = self.logits(torch.stack([track.token_sum for track in tracks])).cpu().numpy()
            pairs = zip(tracks, table.astype(np.float64), strict=True)
            self._sums = {track.id: _Sum(row, track.weight) for track, row in pairs}
        else:
            before, nothing = self._sums, _Sum(np.zeros(logits.shape[1]), 0.0)
            self._sums = {track.id: before.get(track.id, nothing) for track in tracks}
            for track in tracks:
                if track.proposal is not None:  # it was seen
                    total, weight = self._sums[track.id]
                    seen = track.objectness * logits[track.proposal].astype(np.float64)
                    self._sums[track.id] = _Sum(total + seen, weight + track.objectness)
        means = np.stack([total / max(weight, 1e-6) for total, weight in self._sums.values()])
        shares = np.exp(means - means.max(1, keepdims=True))
        return (shares[:, : len(self._words.names)] / shares.sum(1, keepdims=True)).astype(np.float32)


class PendingFrame:
    """The answer to a frame, but for its masks. The network is no longer needed, and may be at the next frame."""

    def __init__(self, frame: TrackedFrame, seen: Sequence[TrackedInstance], kept: KeptMasks) -> None:
        """``seen``: those of the frame's instances that have a mask, in the order of the ``kept`` ones."""
        self.frame = frame
        self._seen, self._kept = seen, kept

    def finish(self) -> TrackedFrame:
        """The frame with its masks. May be called in another thread than all else.

        Raises:
            DeviceLostError: the device is of no use any more.
            InstformerError: memory does not suffice.
        """
        watch = Stopwatch(self.frame.timings)
        with device_errors(self._kept.device), watch("masks"):
            for instance, rle in zip(self._seen, self._kept.encode(), strict=True):
                instance.rle, instance.box = rle, masks.box(rle)
        return self.frame
