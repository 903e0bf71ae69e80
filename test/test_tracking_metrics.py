"""HOTA and IDF1 on cases that can be counted by hand, and what happens to detections on ignored objects."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trackeval", reason="trackeval is not installed")

from instformer_ros import masks
from instformer_ros.evaluation.tracking import FrameObjects, TrackingVideo, mask_iou, score
from instformer_ros.structures import InstformerError, Rle

ONE = pytest.approx(1.0, abs=1e-12)


def square(left: int, top: int = 0, size: int = 10) -> Rle:
    mask = np.zeros((60, 60), dtype=bool)
    mask[top : top + size, left : left + size] = True
    return masks.encode(mask)


def video(truth: list[dict[int, Rle]], found: list[dict[int, Rle]]) -> TrackingVideo:
    def frames(tracks: list[dict[int, Rle]]) -> list[FrameObjects]:
        return [FrameObjects(list(frame), list(frame.values())) for frame in tracks]

    return TrackingVideo(frames(truth), frames(found))


A, B, C = square(0), square(20), square(40)


def test_perfect_tracks_score_one() -> None:
    truth = [{1: A, 2: B}, {1: B, 2: C}, {2: A}]
    renamed = [{7: A, 30: B}, {7: B, 30: C}, {30: A}]
    assert all(value == ONE for value in score([video(truth, renamed)] * 2).values())


def test_swapped_identities_by_hand() -> None:
    # Two objects, four frames, identities swap half-way: each true track pairs with one found track in 2 of 4 frames.
    out = score([video([{1: A, 2: B}] * 4, [{1: A, 2: B}] * 2 + [{2: A, 1: B}] * 2)])
    assert out["IDF1"] == pytest.approx(0.5)
    assert out["DetA"] == ONE and out["AssA"] == pytest.approx(1 / 3)  # 2 / (4 + 4 - 2)
    assert out["HOTA"] == pytest.approx(np.sqrt(1 / 3))


def test_misses_and_false_alarms_by_hand() -> None:
    # 4 true boxes; 2 found, 2 false: IDTP 2, IDFN 2, IDFP 2
    out = score([video([{1: A}] * 4, [{1: A}] * 2 + [{2: C}] * 2)])
    assert (out["IDF1"], out["IDP"], out["IDR"]) == pytest.approx((0.5, 0.5, 0.5))
    assert out["DetA"] == pytest.approx(2 / 6)


def test_videos_are_pooled_not_averaged() -> None:
    good, bad = video([{1: A}] * 3, [{1: A}] * 3), video([{1: A}], [{}])
    assert score([good, bad])["IDF1"] == pytest.approx(2 * 3 / (2 * 3 + 1))


def test_overlap_below_half_is_no_match() -> None:
    half = square(0, 0, 7)  # 49 of 100 pixels
    assert score([video([{1: A}], [{1: half}])])["IDF1"] == 0.0
    assert 0.4 < score([video([{1: A}], [{1: half}])])["HOTA"] < 0.5  # nine of the nineteen thresholds are below 0.49


def test_nothing_found_is_zero_and_nothing_there_is_undefined() -> None:
    assert set(score([video([{1: A}], [{}])]).values()) == {0.0}
    for nothing in ([], [video([], [])], [video([{}], [{}])], [video([{}], [{1: A}])]):
        out = score(nothing)
        assert len(out) == 6 and all(np.isnan(value) for value in out.values())
    assert all(np.isnan(value) for value in score([video([{1: A}], [{1: A}])], [frozenset({1})]).values())
    assert score([video([{1: A}], [{1: A}]), video([{}], [{5: B}])])["IDP"] == pytest.approx(0.5)  # still a false alarm


def test_detections_on_ignored_objects_are_removed() -> None:
    truth, found = [{1: A, 2: B}] * 3, [{1: A, 2: B}] * 3
    assert score([video(truth, found)], [frozenset({2})])["IDF1"] == ONE
    assert score([video([{1: A}] * 3, found)])["IDF1"] < 1.0  # without it, the second would be a false alarm
    # Only one detection is excused for an ignored object, and only at IoU >= 0.5.
    assert score([video(truth, [{1: A, 2: B, 3: B}] * 3)], [frozenset({2})])["IDP"] == pytest.approx(0.5)
    assert score([video(truth, [{1: A, 2: square(20, 0, 7)}] * 3)], [frozenset({2})])["IDP"] == pytest.approx(0.5)


def test_a_detection_of_a_true_object_is_not_removed() -> None:
    # The detection overlaps an ignored object by IoU 0.54 but is the true object's own: Hungarian over all of them.
    shifted = square(3)
    assert mask_iou([shifted], [A])[0, 0] == pytest.approx(70 / 130)
    assert score([video([{1: A, 2: shifted}], [{5: A}])], [frozenset({2})])["IDF1"] == ONE


def test_what_cannot_be_seen_is_left_out() -> None:
    frame = FrameObjects()
    frame.add(1, None)
    frame.add(2, masks.empty(60, 60))
    frame.add(3, A)
    assert frame.ids == [3] and frame.masks == [A]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InstformerError, match="tracks of 1 frames for a video of 2"):
        video([{}, {}], [{}])
    with pytest.raises(InstformerError, match="masks of different sizes"):
        mask_iou([A], [masks.encode(np.ones((5, 5), dtype=bool))])
    assert mask_iou([], [A]).shape == (0, 1)
