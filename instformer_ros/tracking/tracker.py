"""Life cycles of tracks: *slots* as in the paper, *managed* for robots. One tracker a camera; it knows no words.

What tracks remember stays on the device, where it is worked on for all of them at once: the number of steps there does
not depend on how many there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.model.upload import upload
from instformer_ros.structures import Detection, TrackState
from instformer_ros.tracking.association import assign, cosine_similarity

MOST_TRACKS = 1000
"""Live tracks of a camera. Gates that found many tracks and keep them for hours would else take all memory and time."""


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


class Tracker(ABC):
    """Turns the detections of one camera, frame by frame, into tracks."""

    def __init__(self, rollout: RolloutTracker, ids: Iterator[int], gates: Gates) -> None:
        self.gates = gates
        self.tracks: list[Track] = []
        self._rollout, self._ids = rollout, ids

    def compare(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Likeness between what each track expects and what a frame shows, on the device.

        Args:
            queries: (N, C) decoder-normalised queries of the frame.
            tokens: (N, E) instance tokens.

        Returns:
            (K, N), rows as :meth:`update` counts the tracks; greater is more alike
        """
        live = self._live()
        if not live:
            return tokens.new_zeros(0, len(tokens))
        return self._likeness(torch.stack([track.predicted for track in live]), queries, tokens)

    def _likeness(self, predicted: Tensor, queries: Tensor, tokens: Tensor) -> Tensor:
        """(K, W) expected against what a frame shows, as for :meth:`compare` -> (K, N)."""
        return cosine_similarity(predicted, self._rollout.tokens(queries, tokens))

    def update(self, detection: Detection, similarity: NDArray[np.floating[Any]] | None = None) -> list[Track]:
        """One frame.

        Args:
            detection: what it shows.
            similarity: (K, N) what :meth:`compare` says of it, by who has brought that to the host with other things.

        Returns:
            every live track, and those that ended in this frame (TERMINATED); valid until the next call
        """
        if similarity is None:
            similarity = self.compare(detection.queries, detection.tokens).cpu().numpy()
        self.tracks = self._live()
        for track in self.tracks:
            track.proposal = None
            track.age += 1
        self._associate(detection, similarity)
        return list(self.tracks)

    @abstractmethod
    def _associate(self, detection: Detection, similarity: NDArray[np.floating[Any]]) -> None:
        """Matches, ages, founds and ends tracks."""

    def _live(self) -> list[Track]:
        return [track for track in self.tracks if track.state is not TrackState.TERMINATED]

    def _found(self, count: int, detection: Detection) -> list[Track]:
        """New tracks, not yet tied to a proposal."""
        states = self._rollout.initial_state(count, detection.tokens).unbind()
        sums = torch.zeros_like(detection.tokens[:1].expand(count, -1)).unbind()
        tracks = [
            Track(next(self._ids), predicted=state, hidden=state, token_sum=nothing, age=1)
            for state, nothing in zip(states, sums, strict=True)
        ]
        self.tracks += tracks
        return tracks

    def _tie(self, pairs: list[tuple[Track, int]], detection: Detection) -> None:
        """Rolls the tracks of ``pairs`` on with the tokens of their proposals."""
        if not pairs:
            return
        rows = upload([row for _, row in pairs], detection.tokens.device)
        tokens = self._rollout.tokens(detection.queries[rows], detection.tokens[rows])
        rolled, states = self._rollout(tokens, torch.stack([track.hidden for track, _ in pairs]))
        for (track, row), predicted, hidden in zip(pairs, rolled.unbind(), states.unbind(), strict=True):
            track.proposal, track.predicted, track.hidden = row, predicted, hidden

    def _see(self, pairs: list[tuple[Track, int]], detection: Detection) -> None:
        """The tracks of ``pairs`` are visible in this frame: their class and their state learn of it."""
        if not pairs:
            return
        rows = [row for _, row in pairs]
        objectness = detection.objectness[rows]
        tokens = detection.tokens[upload(rows, detection.tokens.device)]
        weighted = upload(objectness, tokens.device)[:, None] * tokens
        sums = torch.stack([track.token_sum for track, _ in pairs]) + weighted
        for (track, _), total, score in zip(pairs, sums.unbind(), objectness.tolist(), strict=True):
            track.token_sum = total
            track.weight += score
            track.objectness = score
            track.frames_since_seen = 0
            track.state = TrackState.NEW if track.age == 1 else TrackState.TRACKED


class ManagedTracker(Tracker):
    """For robots: a birth gate and a match gate, the hidden state frozen while unseen, an end after coasting."""

    def _associate(self, detection: Detection, similarity: NDArray[np.floating[Any]]) -> None:
        gates = self.gates
        # What may found a track may continue one too: else it would be founded anew in every frame.
        least = min(gates.match_objectness, gates.birth)
        candidates = [row for row, score in enumerate(detection.objectness) if score >= least]
        matched: dict[int, int] = {}
        if self.tracks and candidates:
            matched = dict(assign(similarity[:, candidates], gates.similarity))
        pairs = [(self.tracks[i], candidates[j]) for i, j in matched.items()]
        for i, track in enumerate(self.tracks):
            if i not in matched:
                track.frames_since_seen += 1
                ended = track.frames_since_seen > gates.max_coast
                track.state = TrackState.TERMINATED if ended else TrackState.COASTING
        taken = {row for _, row in pairs}
        born = [row for row in candidates if row not in taken and detection.objectness[row] >= gates.birth]
        self._make_room(len(born), set(matched))
        if born:
            pairs += list(zip(self._found(len(born), detection), born, strict=True))
        self._tie(pairs, detection)
        self._see(pairs, detection)

    def _make_room(self, born: int, matched: set[int]) -> None:
        """Ends the tracks unseen for longest, if those and the ``born`` are too many; ``matched``: who is seen."""
        unseen = [t for i, t in enumerate(self.tracks) if i not in matched and t.state is not TrackState.TERMINATED]
        excess = len(unseen) + len(matched) + born - MOST_TRACKS
        if excess > 0:
            for track in sorted(unseen, key=lambda track: -track.frames_since_seen)[:excess]:
                track.state = TrackState.TERMINATED


class SlotTracker(Tracker):
    """The paper's: N permanent slots, founded by the first frame, each matched and rolled on in every frame."""

    def _associate(self, detection: Detection, similarity: NDArray[np.floating[Any]]) -> None:
        if self.tracks:
            pairs = [(self.tracks[i], j) for i, j in assign(similarity)]
        else:
            count = len(detection.objectness)
            pairs = list(zip(self._found(count, detection), range(count), strict=True))
        self._tie(pairs, detection)
        visible = [pair for pair in pairs if self._is_visible(*pair, detection)]
        self._see(visible, detection)
        seen = {track.id for track, _ in visible}
        for track in self.tracks:  # some without a proposal, where those are fewer than the slots
            if track.id not in seen:
                track.proposal = None
                track.frames_since_seen += 1
                track.state = TrackState.COASTING

    def _is_visible(self, track: Track, row: int, detection: Detection) -> bool:
        return bool(detection.objectness[row] >= self.gates.birth or track.weight == 0)
