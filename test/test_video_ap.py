"""Video AP / AR against a deliberately naive reference, against numbers of the public evaluator, and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from video_ap_reference import PUBLIC, naive, random_dataset, rle

from instformer_ros import masks
from instformer_ros.evaluation.video_ap import Scores, VideoAp
from instformer_ros.structures import InstformerError

ONE = pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))  # 10 x 20 = 200 videos
def test_equals_naive_and_public_evaluator(seed: int) -> None:
    data, results = random_dataset(seed)
    ours = VideoAp(data, results).score().summary()
    reference = naive(data, results)
    assert list(ours) == list(reference)
    np.testing.assert_allclose(list(ours.values()), list(reference.values()), rtol=0, atol=1e-12)
    np.testing.assert_allclose([-1 if math.isnan(v) else v for v in ours.values()], PUBLIC[seed], rtol=0, atol=1e-12)


# ---- by hand ------------------------------------------------------------------------------------------------------


def square(size: int, height: int = 20, width: int = 20) -> dict[str, Any]:
    mask = np.zeros((height, width), dtype=bool)
    mask[:size, :size] = True
    return rle(mask)


def dataset(
    tracks: list[list[Any]], categories: list[int] | None = None, size: int = 20, **extra: Any
) -> dict[str, Any]:
    return {
        "videos": [{"id": 1, "height": size, "width": size, "length": len(tracks[0]) if tracks else 2}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n + 1, "video_id": 1, "category_id": c, "segmentations": t, "iscrowd": 0, **extra}
            for n, (t, c) in enumerate(zip(tracks, categories or [1] * len(tracks), strict=True))
        ],
    }


def prediction(track: list[Any], score: float = 0.9, category: int = 1) -> dict[str, Any]:
    return {"video_id": 1, "category_id": category, "score": score, "segmentations": track}


def score(data: dict[str, Any], results: list[dict[str, Any]], **how: Any) -> Scores:
    return VideoAp(data, results).score(**how)


def test_perfect_is_one_and_nothing_is_zero() -> None:
    data = dataset([[square(5), square(6)]])
    assert score(data, [prediction([square(5), square(6)])]).summary()["AP"] == ONE
    empty = score(data, []).summary()
    assert empty["AP"] == 0.0 and empty["AR100"] == 0.0 and math.isnan(empty["APl"])


def test_a_track_under_many_classes_is_checked_once_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask by mask, the check of run lengths took four fifths of the time of an evaluation."""
    checked: list[int] = []
    first_damaged = masks.first_damaged
    monkeypatch.setattr(masks, "first_damaged", lambda rles: checked.append(len(rles)) or first_damaged(rles))
    track = [square(5), None, square(5)]
    data = dataset([track])
    score(data, [prediction(track, 0.9, 1), prediction(track, 0.8, 2)])
    assert checked == [2, 2], "the truth's, and the track's"


def test_no_ground_truth_is_undefined() -> None:
    assert all(math.isnan(v) for v in score(dataset([]), [prediction([square(5)] * 2)]).summary().values())
    assert all(math.isnan(v) for v in score(dataset([]), []).summary().values())


def test_iou_sums_over_frames() -> None:
    # frame 0: 16 of 16 pixels, frame 1: 16 of 36: IoU = 32 / 52 = 0.615 passes .50, .55, .60; the mean would be 0.72
    out = score(dataset([[square(4), square(6)]]), [prediction([square(4), square(4)])])
    assert (
        out.ap() == pytest.approx(0.3)
        and out.ap(0.6) == ONE
        and out.ap(0.65) == 0.0
        and out.ar(1) == pytest.approx(0.3)
    )


def test_precision_by_hand() -> None:
    # right, wrong, right: precision 1 up to recall 1/2 (51 of 101 points), 2/3 beyond
    far = np.zeros((20, 20), dtype=bool)
    far[10:, 10:] = True
    results = [prediction([square(4)], 0.9), prediction([square(20)], 0.8), prediction([rle(far)], 0.7)]
    out = score(dataset([[square(4)], [rle(far)]]), results)
    assert out.ap() == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert (out.ar(1), out.ar(10)) == (0.5, 1.0)


def test_null_and_empty_masks() -> None:
    data = dataset([[square(6), None, square(0)]])
    for track in ([square(6), None, None], [square(6), square(0), square(0)], [square(6), square(0), None]):
        assert score(data, [prediction(track)]).ap() == ONE
    assert score(data, [prediction([None] * 3)]).ap() == 0.0
    assert score(dataset([[None, square(0)]]), [prediction([None, square(0)])]).ap() == 0.0  # 0 / 0 is no match
    # the frames without pixels stay out of the mean area: 130 x 130 once is medium, not small
    data = dataset([[square(130, 200, 200), None, square(0, 200, 200)]], size=200)
    out = score(data, [prediction([square(130, 200, 200), square(0, 200, 200), None])])
    assert out.ap(area="medium") == ONE and math.isnan(out.ap(area="small"))
    with pytest.raises(InstformerError, match="prediction 0, frame 1: mask of 5x5 pixels in a video of 20x20"):
        score(dataset([[square(6)] * 2]), [prediction([square(6), square(0, 5, 5)])])


def test_area_bins_hold_their_edges_and_ignore_what_is_outside() -> None:
    edge = square(128, 300, 300)  # exactly 128^2: both in small and in medium
    out = score(dataset([[edge]], size=300), [prediction([edge])])
    assert out.ap(area="small") == ONE and out.ap(area="medium") == ONE and math.isnan(out.ap(area="large"))
    big, small = square(280, 300, 300), square(20, 300, 300)
    out = score(dataset([[big]], size=300), [prediction([small], 0.9), prediction([big], 0.8)])
    assert (
        out.ap() == pytest.approx(0.5) and out.ap(area="large") == ONE
    )  # the small false alarm does not count among the large
    out = score(dataset([[small]], size=300, areas=[1e5]), [prediction([small])])
    assert out.ap(area="large") == ONE  # the file's own areas decide


def test_among_equal_overlaps_the_last_annotation_is_taken() -> None:
    left, right = np.zeros((20, 20), dtype=bool), np.zeros((20, 20), dtype=bool)
    left[:, :5], right[:, 5:10] = True, True
    results = [prediction([rle(left | right)], 0.9), prediction([rle(right)], 0.8)]  # the first is half of either
    assert score(dataset([[rle(left)], [rle(right)]]), results).ap(0.5) == pytest.approx(51 / 101)
    assert score(dataset([[rle(right)], [rle(left)]]), results).ap(0.5) == ONE


def test_more_than_a_hundred_detections() -> None:
    data = dataset([[square(4)]])
    wrong = [prediction([square(20)], 0.9) for _ in range(100)]
    assert score(data, [*wrong, prediction([square(4)], 0.1)]).ar() == 0.0
    out = score(data, [*wrong[1:], prediction([square(4)], 0.1)])
    assert out.ar() == ONE and out.ar(10) == 0.0 and out.ap() == pytest.approx(0.01)
    assert score(data, [*wrong, prediction([square(4)], 0.1, 1), prediction([square(4)], 0.95, 2)]).ar() == 0.0
    other = score(data, [*[{**w, "category_id": 2} for w in wrong], prediction([square(4)], 0.1)])
    assert other.ar() == ONE  # the limit holds for each class


@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_ignored_annotations(flag: str) -> None:
    data = dataset([[square(4)], [square(12)]])
    data["annotations"][1][flag] = 1
    good, on_ignored = prediction([square(4)], 0.5), prediction([square(12)], 0.9)
    assert score(data, [good, on_ignored]).ap() == ONE
    twice = score(data, [good, on_ignored, on_ignored]).ap()
    assert twice == pytest.approx(1.0 if flag == "iscrowd" else 0.5)  # only a crowd may be matched again
    assert score(data, [on_ignored]).ap() == 0.0
    data["annotations"][0][flag] = 1
    assert math.isnan(score(data, [good, on_ignored]).ap())


def test_ignoring_by_id_holds_in_every_class() -> None:
    data = dataset([[square(4)], [square(12)]], [1, 2])
    results = [prediction([square(12)], 0.9, 1), prediction([square(12)], 0.8, 1), prediction([square(4)], 0.5, 1)]
    assert score(data, results, categories=[1]).ap() == pytest.approx(1 / 3)
    assert score(data, results, categories=[1], ignore=[2]).ap() == ONE
    assert score(data, results, categories=[1], ignore=[2]).categories == (1,)


def test_class_agnostic_and_per_class() -> None:
    data = dataset([[square(4)], [square(12)]], [1, 2])
    results = [prediction([square(4)], 0.9, 2), prediction([square(12)], 0.8, 2)]
    out = score(data, results)
    assert out.per_class()[1] == {"AP": 0.0, "AP50": 0.0, "AR10": 0.0}
    assert out.per_class()[2]["AP"] == pytest.approx(0.5) and out.ap() == pytest.approx(0.25)
    agnostic = score(data, results, class_agnostic=True)
    assert agnostic.ap() == ONE and agnostic.per_class()[None]["AR10"] == ONE


def test_formats_of_the_files() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:, 4:8] = True
    plain = {"size": [20, 20], "counts": [80, 80, 240]}
    for truth in (rle(mask), plain, [[4, 0, 8, 0, 8, 20, 4, 20]]):
        assert score(dataset([[truth]]), [prediction([rle(mask)])]).ap() == ONE
    as_bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert score(dataset([[plain]]), [prediction([as_bytes])]).ap() == ONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentations": [None]}, "prediction 0: 1 segmentations, but video 1 has 2 frames"),
        ({"segmentations": [None] * 3}, "prediction 0: 3 segmentations, but video 1 has 2 frames"),
        ({"video_id": 7}, "prediction 0: video 7 is not in the ground truth"),
        ({"category_id": 7}, "prediction 0: category 7 is not in the ground truth"),
        ({"score": float("nan")}, "prediction 0: 'score' is nan"),
        ({"score": None}, "prediction 0: 'score' is missing or no number"),
        ({"segmentations": 5}, "prediction 0: missing or bad key"),
        ({"segmentations": [{"size": [20, 20]}, None]}, "prediction 0, frame 0: not a run-length encoded mask"),
        ({"segmentations": ["x", None]}, "prediction 0, frame 0: not a run-length encoded mask"),
    ],
)
def test_bad_predictions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InstformerError, match=message) as error:
        VideoAp(dataset([[square(4)] * 2]), [{**prediction([square(4)] * 2), **change}])
    assert "\n" not in str(error.value)


def test_bad_ground_truth_is_refused() -> None:
    with pytest.raises(InstformerError, match="ground truth: missing or bad key 'categories'"):
        VideoAp({"videos": [], "annotations": []}, [])
    with pytest.raises(InstformerError, match="annotation 1: 1 segmentations, but video 1 has 2 frames"):
        data = dataset([[square(4)] * 2])
        data["annotations"][0]["segmentations"].pop()
        VideoAp(data, [])
