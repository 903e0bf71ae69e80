"""Life cycles of tracks: *slots* as in the paper, *managed* for robots. One tracker a camera; it knows no words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.structures import Detection, TrackState
from instformer_ros.tracking.association import assign, cosine_similarity


@dataclass(frozen=True)
class Gates:
    """Thresholds of the life cycles. All concern objectness and likeness, none a class: words may change freely."""

    birth: float = 0.5  # least objectness that founds a track, or makes a slot visible
    match_objectness: float = 0.3  # least objectness that continues one
    similarity: float = 0.15  # least cosine between what a track expects and what it gets
    max_coast: int = 30  # frames a track is kept unseen


@dataclass(eq=False)
class Track:
    """What is remembered of one instance."""

    id: int
    predicted: Tensor  # (W,) the token expected in the next frame
    hidden: Tensor  # (W,) state of the rollout tracker
    token_sum: Tensor  # (E,) instance tokens of the frames it was seen in, weighted by objectness
    weight: float = 0.0
    objectness: float = 0.0  # when last seen
    age: int = 0  # frames since birth, 1 in the first
    frames_since_seen: int = 0
    state: TrackState = TrackState.NEW
    proposal: int | None = None  # row of this frame's proposals; None when not seen

    @property
    def mean_token(self) -> Tensor:
        """(E,) objectness-weighted mean of its instance tokens; classifying it equals averaging the logits."""
        return self.token_sum / max(self.weight, 1e-6)


class Tracker(ABC):
    """Turns the detections of one camera, frame by frame, into tracks."""

    def __init__(self, rollout: RolloutTracker, ids: Iterator[int], gates: Gates) -> None:
        self.gates = gates
        self.tracks: list[Track] = []
        self._rollout, self._ids = rollout, ids

    def update(self, detection: Detection) -> list[Track]:
        """One frame.

        Returns:
            every live track, and those that ended in this frame (TERMINATED); valid until the next call
        """
        self.tracks = [track for track in self.tracks if track.state is not TrackState.TERMINATED]
        tokens = self._rollout.tokens(detection.queries, detection.tokens)
        for track in self.tracks:
            track.proposal = None
            track.age += 1
        self._associate(detection, tokens)
        return list(self.tracks)

    @abstractmethod
    def _associate(self, detection: Detection, tokens: Tensor) -> None:
        """Matches, ages, founds and ends tracks."""

    def _similarity(self, tokens: Tensor) -> NDArray[np.float64]:
        """(tracks, N) between what each track expects and the ``tokens`` (N, W) of this frame."""
        return cosine_similarity(torch.stack([track.predicted for track in self.tracks]), tokens)

    def _found(self, count: int) -> list[Track]:
        """New tracks, not yet tied to a proposal."""
        state = self._rollout.initial_state(count)
        tracks = [
            Track(next(self._ids), predicted=state[i], hidden=state[i], token_sum=torch.zeros(0), age=1)
            for i in range(count)
        ]
        self.tracks += tracks
        return tracks

    def _tie(self, pairs: list[tuple[Track, int]], tokens: Tensor) -> None:
        """Rolls the tracks of ``pairs`` on with the tokens of their proposals."""
        if not pairs:
            return
        hidden = torch.stack([track.hidden for track, _ in pairs])
        rows = torch.tensor([row for _, row in pairs], device=tokens.device)
        predicted, hidden = self._rollout(tokens[rows], hidden.to(tokens.device))
        for i, (track, row) in enumerate(pairs):
            track.proposal, track.predicted, track.hidden = row, predicted[i], hidden[i]

    def _see(self, track: Track, detection: Detection) -> None:
        """A track is visible in this frame: its class and its state learn of it."""
        assert track.proposal is not None
        objectness = float(detection.objectness[track.proposal])
        token = objectness * detection.tokens[track.proposal]
        track.token_sum = token if track.weight == 0 else track.token_sum + token
        track.weight += objectness
        track.objectness = objectness
        track.frames_since_seen = 0
        track.state = TrackState.NEW if track.age == 1 else TrackState.TRACKED


class ManagedTracker(Tracker):
    """For robots: a birth gate and a match gate, the hidden state frozen while unseen, an end after coasting."""

    def _associate(self, detection: Detection, tokens: Tensor) -> None:
        gates = self.gates
        candidates = [row for row, score in enumerate(detection.objectness) if score >= gates.match_objectness]
        matched: dict[int, int] = {}
        if self.tracks and candidates:
            matched = dict(assign(self._similarity(tokens[candidates]), gates.similarity))
        pairs = [(self.tracks[i], candidates[j]) for i, j in matched.items()]
        for i, track in enumerate(self.tracks):
            if i not in matched:
                track.frames_since_seen += 1
                ended = track.frames_since_seen > gates.max_coast
                track.state = TrackState.TERMINATED if ended else TrackState.COASTING
        taken = {row for _, row in pairs}
        born = [row for row in candidates if row not in taken and detection.objectness[row] >= gates.birth]
        pairs += list(zip(self._found(len(born)), born, strict=True))
        self._tie(pairs, tokens)
        for track, _ in pairs:
            self._see(track, detection)


class SlotTracker(Tracker):
    """The paper's: N permanent slots, founded by the first frame, each matched and rolled on in every frame."""

    def _associate(self, detection: Detection, tokens: Tensor) -> None:
        if not self.tracks:
            pairs = list(zip(self._found(len(tokens)), range(len(tokens)), strict=True))
        else:
            pairs = [(self.tracks[i], j) for i, j in assign(self._similarity(tokens))]
        self._tie(pairs, tokens)
        for track in self.tracks:
            row = track.proposal  # None where there are fewer proposals than slots
            if row is not None and (detection.objectness[row] >= self.gates.birth or track.weight == 0):
                self._see(track, detection)
            else:
                track.proposal = None
                track.frames_since_seen += 1
                track.state = TrackState.COASTING
