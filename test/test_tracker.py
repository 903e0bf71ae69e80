"""Both life cycles: who is matched with whom, and when tracks are born, coast and end."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.structures import Detection, TrackState
from instformer_ros.tracking.association import assign, cosine_similarity
from instformer_ros.tracking.tracker import MOST_TRACKS, Gates, ManagedTracker, SlotTracker, Track, Tracker

WIDTH = 12  # of each half of a token


def rollout(lively: bool = False) -> RolloutTracker:
    """Untrained, or with a memory that shows in its predictions."""
    torch.manual_seed(0)
    net = RolloutTracker(RolloutConfig(), 2 * WIDTH)
    if lively:
        nn.init.normal_(net.rnn.weight_hh_l0, std=0.05)
    return net.requires_grad_(False)


def managed(**gates: float) -> ManagedTracker:
    return ManagedTracker(rollout(), itertools.count(1), Gates(**gates))  # type: ignore[arg-type]


def see(*objects: int, score: float | list[float] = 0.9, noise: float = 0.0, seed: int = 0) -> Detection:
    """A frame with some of twelve objects, whose tokens are orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.eye(WIDTH)[list(objects)] if objects else torch.zeros(0, WIDTH)
    queries, tokens = (base + noise * torch.randn(base.shape, generator=generator) for _ in range(2))
    scores = np.broadcast_to(np.asarray(score, np.float32), (len(objects),)).copy()
    return Detection(queries, tokens, scores)


def states(tracks: list[Track]) -> dict[int, TrackState]:
    return {track.id: track.state for track in tracks}


# -- assignment -------------------------------------------------------------------------------------------------------


def test_the_assignment_is_the_best_in_sum_not_the_greedy_one() -> None:
    similarity = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert assign(similarity) == [(0, 1), (1, 0)]
    assert assign(similarity, least=0.82) == [(0, 0)], "a pair below the gate takes nothing from one above it"
    assert assign(np.zeros((3, 1))) == [(0, 0)]
    assert len(assign(np.ones((2, 5)))) == 2


def test_similarity_is_the_cosine() -> None:
    similarity = cosine_similarity(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [5.0, 0.0]]))
    assert np.allclose(similarity, [[0, 1], [2**-0.5, 2**-0.5]], atol=1e-6)


# -- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ManagedTracker, SlotTracker])
@pytest.mark.parametrize("lively", [False, True])
def test_a_planted_permutation_is_recovered(kind: type[Tracker], lively: bool) -> None:
    tracker = kind(rollout(lively), itertools.count(1), Gates(similarity=0.3))
    rng = np.random.default_rng(0)
    owner: dict[int, int] = {}  # track id -> object
    for frame in range(12):
        order = rng.permutation(WIDTH)
        tracks = tracker.update(see(*order, noise=0.1, seed=frame))
        assert len(tracks) == WIDTH
        found = {track.id: int(order[track.proposal]) for track in tracks if track.proposal is not None}
        assert sorted(found.values()) == list(range(WIDTH))
        owner = owner or found
        assert found == owner, f"frame {frame}"


@pytest.mark.parametrize("kind", [ManagedTracker, SlotTracker])
def test_no_proposals_at_all(kind: type[Tracker]) -> None:
    tracker = kind(rollout(), itertools.count(1), Gates())
    assert tracker.update(see()) == []
    assert len(tracker.update(see(0, 1))) == 2


@pytest.mark.parametrize("kind", [ManagedTracker, SlotTracker])
def test_trackers_that_share_a_counter_share_no_id(kind: type[Tracker]) -> None:
    ids = itertools.count(7)
    first, second = (kind(rollout(), ids, Gates()) for _ in range(2))
    numbers = [t.id for t in (*first.update(see(0, 1)), *second.update(see(0, 1, 2)))]
    assert numbers == [7, 8, 9, 10, 11]


def test_tokens_are_summed_weighted_by_objectness() -> None:
    tracker = managed(match_objectness=0.1)
    frames = [see(3, score=s, noise=0.2, seed=i) for i, s in enumerate((0.9, 0.2, 0.6))]
    for frame in frames:
        (track,) = tracker.update(frame)
    wanted = sum(float(f.objectness[0]) * f.tokens[0] for f in frames)
    for _ in range(2):
        assert torch.allclose(track.token_sum, wanted, atol=1e-6)
        assert track.weight == pytest.approx(0.9 + 0.2 + 0.6)
        tracker.update(see(5))  # frames without it say nothing of it


class Steps(TorchDispatchMode):
    """Counts what torch is asked to work out; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "aten" and not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [ManagedTracker, SlotTracker])
def test_more_tracks_take_no_more_steps_of_the_device(kind: type[Tracker]) -> None:
    counts = []
    for objects in (2, 11):
        tracker = kind(rollout(), itertools.count(1), Gates())
        for _ in range(2):
            tracker.update(see(*range(objects)))
        with Steps() as steps:
            tracks = tracker.update(see(*range(objects)))
        assert len(tracks) == objects
        counts.append(steps.count)
    assert counts[0] == counts[1] < 60


@pytest.mark.parametrize("kind", [ManagedTracker, SlotTracker])
def test_what_was_compared_before_is_taken(kind: type[Tracker]) -> None:
    one, other = (kind(rollout(), itertools.count(1), Gates(max_coast=0)) for _ in range(2))
    for frame, order in enumerate([(0, 1, 2), (2, 0), (1, 0), (1, 2, 3)]):  # with tracks that end
        detection = see(*order, noise=0.05, seed=frame)
        likeness = other.compare(detection.queries, detection.tokens).numpy()
        tracks, others = one.update(detection), other.update(detection, likeness)
        assert [(t.id, t.state, t.proposal) for t in tracks] == [(t.id, t.state, t.proposal) for t in others]
    tracker = kind(rollout(), itertools.count(1), Gates(similarity=-1.0))
    tracker.update(see(0, 1))
    tracks = tracker.update(see(0, 1), np.array([[0.1, 0.9], [0.9, 0.1]], np.float32))
    assert [track.proposal for track in tracks] == [1, 0], "it is this that is matched by"


# -- managed ----------------------------------------------------------------------------------------------------------


def test_only_certain_proposals_found_tracks_but_less_certain_ones_continue_them() -> None:
    tracker = managed(birth=0.5, match_objectness=0.3)
    assert states(tracker.update(see(0, 1, 2, score=[0.5, 0.49, 0.0]))) == {1: TrackState.NEW}
    assert states(tracker.update(see(1, 0, score=[0.4, 0.3]))) == {1: TrackState.TRACKED}
    (track,) = tracker.update(see(0, score=0.29))
    assert track.state is TrackState.COASTING
    assert track.proposal is None
    assert track.objectness == pytest.approx(0.3), "as when last seen"


def test_what_founds_a_track_continues_it_even_if_less_is_asked_of_it() -> None:
    tracker = managed(birth=0.1, match_objectness=0.5)
    assert states(tracker.update(see(0, 1, score=[0.2, 0.05]))) == {1: TrackState.NEW}
    assert states(tracker.update(see(0, 1, score=[0.1, 0.05]))) == {1: TrackState.TRACKED}


def test_rows_that_are_no_candidates_do_not_shift_the_others() -> None:
    tracker = managed(birth=0.5, match_objectness=0.3)
    tracker.update(see(4, 5))
    tracks = tracker.update(see(0, 5, 1, 4, score=[0.1, 0.9, 0.0, 0.9]))
    assert {track.id: track.proposal for track in tracks} == {1: 3, 2: 1}


def test_an_unlike_proposal_is_another_object() -> None:
    tracker = managed(similarity=0.5)
    tracker.update(see(0))
    assert states(tracker.update(see(1))) == {1: TrackState.COASTING, 2: TrackState.NEW}
    lenient = managed(similarity=-1.0)
    lenient.update(see(0))
    assert states(lenient.update(see(1))) == {1: TrackState.TRACKED}


def test_a_track_coasts_with_its_memory_frozen_and_comes_back_as_itself() -> None:
    tracker = ManagedTracker(rollout(lively=True), itertools.count(1), Gates(max_coast=5))
    tracker.update(see(0, 1))
    (first, _) = tracker.update(see(0, 1))
    hidden, predicted = first.hidden.clone(), first.predicted.clone()
    for missing in range(1, 6):
        tracks = tracker.update(see(1))
        assert states(tracks) == {1: TrackState.COASTING, 2: TrackState.TRACKED}
        assert first.frames_since_seen == missing
        assert first.age == 2 + missing
        assert torch.equal(first.hidden, hidden)
        assert torch.equal(first.predicted, predicted)
    tracks = tracker.update(see(1, 0))
    assert states(tracks) == {1: TrackState.TRACKED, 2: TrackState.TRACKED}
    assert (first.proposal, first.frames_since_seen, first.age) == (1, 0, 8)
    assert not torch.equal(first.hidden, hidden)


@pytest.mark.parametrize("max_coast", [0, 3])
def test_a_track_ends_once_and_its_id_is_gone(max_coast: int) -> None:
    tracker = managed(max_coast=max_coast)
    tracker.update(see(0))
    for _ in range(max_coast):
        assert states(tracker.update(see())) == {1: TrackState.COASTING}
    (ended,) = tracker.update(see())
    assert ended.state is TrackState.TERMINATED
    assert ended.frames_since_seen == max_coast + 1
    assert tracker.update(see()) == []
    assert states(tracker.update(see(0))) == {2: TrackState.NEW}


def test_an_ended_track_takes_no_proposal_even_of_the_next_frame() -> None:
    tracker = managed(max_coast=0)
    tracker.update(see(0))
    tracker.update(see())
    assert states(tracker.update(see(0))) == {2: TrackState.NEW}


def test_ids_are_never_used_again() -> None:
    tracker = managed(max_coast=1)
    rng = np.random.default_rng(1)
    ended: set[int] = set()
    born: list[int] = []
    for _ in range(200):
        present = rng.permutation(WIDTH)[: rng.integers(0, 6)]
        for track in tracker.update(see(*present)):
            assert track.id not in ended
            if track.state is TrackState.NEW:
                born.append(track.id)
            elif track.state is TrackState.TERMINATED:
                ended.add(track.id)
    assert len(ended) > 50
    assert born == sorted(set(born)), "ascending, each once"


def test_gates_are_live() -> None:
    tracker = managed(birth=0.5)
    assert tracker.update(see(0, score=0.4)) == []
    tracker.gates = Gates(birth=0.2)
    assert len(tracker.update(see(0, score=0.4))) == 1


# -- slots ------------------------------------------------------------------------------------------------------------


def test_slots_are_always_as_many_as_queries() -> None:
    tracker = SlotTracker(rollout(), itertools.count(1), Gates(birth=0.5))
    rng = np.random.default_rng(2)
    for frame in range(40):
        scores = rng.random(WIDTH).round(2)
        order = rng.permutation(WIDTH)
        tracks = tracker.update(see(*order, score=list(scores), noise=0.05, seed=frame))
        assert [track.id for track in tracks] == list(range(1, WIDTH + 1))
        assert all(track.age == frame + 1 for track in tracks)
        assert TrackState.TERMINATED not in states(tracks).values()
        taken = [track.proposal for track in tracks if track.proposal is not None]
        assert len(taken) == len(set(taken))
        visible = {row for row in range(WIDTH) if scores[row] >= 0.5}
        assert visible <= set(taken)
        if frame:
            assert set(taken) - visible <= {t.proposal for t in tracks if t.weight == t.objectness}


def test_a_slot_without_a_proposal_is_not_seen() -> None:
    tracker = SlotTracker(rollout(), itertools.count(1), Gates(birth=0.5))
    tracker.update(see(0, 1, 2))
    tracks = tracker.update(see(0, 2))
    assert states(tracks) == {1: TrackState.TRACKED, 2: TrackState.COASTING, 3: TrackState.TRACKED}
    assert [track.frames_since_seen for track in tracks] == [0, 1, 0]


def test_a_slot_rolls_on_while_its_object_is_hidden() -> None:
    """As in the paper: always updated. Its class learns nothing from such frames."""
    tracker = SlotTracker(rollout(lively=True), itertools.count(1), Gates(birth=0.5))
    (first, second) = tracker.update(see(0, 1))
    hidden, total, weight = first.hidden.clone(), first.token_sum.clone(), first.weight
    tracks = tracker.update(see(1, 0, score=[0.9, 0.1]))
    assert states(tracks) == {1: TrackState.COASTING, 2: TrackState.TRACKED}
    assert (first.proposal, first.frames_since_seen, second.proposal) == (None, 1, 0)
    assert not torch.equal(first.hidden, hidden)
    assert torch.equal(first.token_sum, total) and first.weight == weight
    tracks = tracker.update(see(0, 1))
    assert states(tracks) == {1: TrackState.TRACKED, 2: TrackState.TRACKED}
    assert (first.proposal, first.frames_since_seen) == (0, 0)


def test_a_slot_follows_even_an_unlike_proposal() -> None:
    tracker = SlotTracker(rollout(), itertools.count(1), Gates(similarity=0.99))
    tracker.update(see(0, 1))
    tracks = tracker.update(see(1, 7))
    assert {track.id: track.proposal for track in tracks} == {1: 1, 2: 0}


def test_there_are_never_more_tracks_than_memory_allows() -> None:
    """Not even with gates that nothing passes and that forget nothing: those unseen for longest end, and say so."""
    tracker = managed(similarity=1.0, birth=0.0, max_coast=100_000)
    alive: set[int] = set()
    for frame in range(120):
        tracks = tracker.update(see(*range(WIDTH), noise=0.5, seed=frame))
        ended = {track.id for track in tracks if track.state is TrackState.TERMINATED}
        assert ended <= alive, "each ends once, and is told"
        alive = {track.id for track in tracks} - ended
        seen = [track for track in tracks if track.proposal is not None]
        assert len(seen) == WIDTH and len(alive) == min(WIDTH * (frame + 1), MOST_TRACKS)
        assert not ended or max(ended) < min(alive), "the oldest go"
