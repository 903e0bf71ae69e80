"""Tracks from frames, and entries of the results format from tracks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instformer_ros import masks
from instformer_ros.evaluation.results import TrackCollector, VideoTrack, result_entries, write_json
from instformer_ros.evaluation.video_ap import VideoAp
from instformer_ros.structures import InstformerError, Rle, TrackedFrame, TrackedInstance, TrackState, Vocabulary

NAMES = ("cat", "dog", "cow")


def square(size: int = 4) -> Rle:
    mask = np.zeros((12, 16), dtype=bool)
    mask[:size, :size] = True
    return masks.encode(mask)


def instance(
    track_id: int, objectness: float, scores: list[float] | None, rle: Rle | None = None, index: int = 0
) -> TrackedInstance:
    rle = square() if rle is None else rle
    state = TrackState.TRACKED if masks.area(rle) else TrackState.COASTING
    return TrackedInstance(
        track_id=track_id,
        state=state,
        age=1,
        frames_since_seen=0,
        label_value=track_id,
        class_index=index,
        class_name=NAMES[index] if index >= 0 else "",
        score=objectness * 0.5,
        objectness=objectness,
        box=masks.box(rle),
        rle=rle,
        class_scores=None if scores is None else np.array(scores, dtype=np.float32),
    )


def frame(
    *instances: TrackedInstance, names: tuple[str, ...] = NAMES, size: tuple[int, int] = (12, 16)
) -> TrackedFrame:
    return TrackedFrame(*size, Vocabulary(1, names), 0, list(instances))


def collect(*frames: TrackedFrame) -> list[VideoTrack]:
    collector = TrackCollector()
    for one in frames:
        collector.add(one)
    return collector.tracks()


def test_tracks_span_the_video() -> None:
    tracks = collect(
        frame(),
        frame(instance(3, 0.8, [0.2, 0.5, 0.3])),
        frame(instance(3, 0.9, [0.1, 0.6, 0.3], masks.empty(12, 16)), instance(9, 1.0, [1, 0, 0], masks.empty(12, 16))),
        frame(instance(3, 0.4, [0.1, 0.7, 0.2], square(5)), instance(1, 0.5, [0.6, 0.2, 0.2])),
        frame(),
    )
    assert [t.track_id for t in tracks] == [1, 3]  # 9 was never seen
    one, three = tracks
    assert three.masks == [None, square(), None, square(5), None]
    assert (three.first, three.last, three.frames, one.first) == (1, 3, 2, 3)
    assert three.mean_objectness == pytest.approx(0.6)  # the frame without a mask does not count
    np.testing.assert_allclose(three.class_scores, [0.1, 0.7, 0.2], atol=1e-6)  # the latest distribution


def test_entries_are_the_best_pairs() -> None:
    tracks = collect(frame(instance(1, 0.5, [0.6, 0.3, 0.1]), instance(2, 1.0, [0.2, 0.45, 0.35])))
    entries = result_entries(tracks, 7, NAMES)
    assert [(e["track_id"], e["category_name"]) for e in entries] == [
        (2, "dog"), (2, "cow"), (1, "cat"), (2, "cat"), (1, "dog"), (1, "cow"),
    ]  # fmt: skip
    assert [e["score"] for e in entries] == pytest.approx([0.45, 0.35, 0.3, 0.2, 0.15, 0.05])
    assert [e["category_id"] for e in entries[:3]] == [2, 3, 1] and {e["video_id"] for e in entries} == {7}
    assert entries == json.loads(json.dumps(entries))
    assert len(result_entries(tracks, 7, NAMES, limit=4)) == 4
    best = result_entries(tracks, 7, NAMES, classes_per_track=1)
    assert [(e["track_id"], e["category_name"]) for e in best] == [(2, "dog"), (1, "cat")]


def test_a_hundred_pairs_a_video() -> None:
    words = tuple(f"word {n}" for n in range(40))
    scores = np.full(40, 1 / 40)
    tracks = [VideoTrack(n, [square()], [0.5 + n / 100], scores, 0, 0) for n in range(1, 6)]
    entries = result_entries(tracks, 1, words)
    assert len(entries) == 100 and {e["track_id"] for e in entries} == {5, 4, 3}
    sure = [VideoTrack(1, [square()], [1.0], np.eye(40)[3], 0, 0)]
    assert [e["category_id"] for e in result_entries(sure, 1, words)] == [4]  # nothing is said at probability 0


def test_entries_pass_the_evaluator() -> None:
    tracks = collect(frame(), frame(instance(1, 1.0, [0.0, 1.0, 0.0])))
    truth = {
        "videos": [{"id": 1, "height": 12, "width": 16, "length": 2}],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 2, "segmentations": [None, square()], "iscrowd": 0}],
    }
    assert VideoAp(truth, result_entries(tracks, 1, NAMES)).score().ap() == pytest.approx(1.0)


def test_without_class_scores_or_without_words() -> None:
    tracks = collect(frame(instance(1, 0.8, None, index=2)))
    np.testing.assert_allclose(tracks[0].class_scores, [0, 0, 0.5])
    assert result_entries(tracks, 1, NAMES)[0]["score"] == pytest.approx(0.4)
    entries = result_entries(collect(frame(instance(4, 0.8, None, index=-1), names=())), 1, ())
    assert [(e["category_name"], e["score"], e["track_id"]) for e in entries] == [("object", pytest.approx(0.8), 4)]
    assert result_entries([], 1, NAMES) == []


def test_inconsistent_frames_are_refused() -> None:
    with pytest.raises(InstformerError, match="frame 1: 20x12 pixels after 16x12"):
        collect(frame(), frame(size=(12, 20)))
    with pytest.raises(InstformerError, match="frame 1: the vocabulary changed"):
        collect(frame(), frame(names=("cat",)))
    with pytest.raises(InstformerError, match="track 1: 3 class scores for 2 words"):
        result_entries(collect(frame(instance(1, 0.5, [1, 0, 0]))), 1, ("cat", "dog"))


def test_json_is_whole_and_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"AP": float("nan"), 1: [np.float64(0.5), float("inf")], "n": np.int64(3)})
    assert json.loads(path.read_text()) == {"AP": None, "1": [0.5, None], "n": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(InstformerError, match="cannot be written"):
        write_json(tmp_path / "missing" / "a.json", {})
