"""The ToyVIS protocol with engines that know the truth and spoil one thing of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from oracle_engine import Oracle

pytest.importorskip("trackeval", reason="trackeval is not installed")

from instformer_ros.data.toyvis import ALL_NAMES, SPLITS, split_of
from instformer_ros.evaluation.toyvis import MAIN, dataset, evaluate, format_table, score_runs
from instformer_ros.evaluation.toyvis_run import run_videos, video_seeds
from instformer_ros.structures import InstformerError

SEED, VIDEOS = 3, 3
ONE = pytest.approx(1.0, abs=1e-12)


def run(kind: type[Oracle] = Oracle, **how: Any) -> dict[str, Any]:
    return evaluate(kind(SEED, VIDEOS), [SEED], VIDEOS, (*SPLITS, "all"), **how)


@pytest.fixture(scope="module")
def perfect() -> dict[str, Any]:
    return run()


def test_perfect_predictions_score_one(perfect: dict[str, Any]) -> None:
    for split in (*SPLITS, "all"):
        scores = perfect["splits"][split]["mean"]
        for key in (*MAIN, "AR10_agnostic", "AP_strict", "true_mask_accuracy", "true_mask_IDF1", "true_mask_HOTA"):
            assert scores[key] == ONE, (split, key)
    assert {key: perfect[key] for key in MAIN} == {key: perfect["splits"]["all"]["mean"][key] for key in MAIN}
    parts = [perfect["splits"][split]["mean"] for split in SPLITS]
    whole = perfect["splits"]["all"]["mean"]
    assert sum(p["objects"] for p in parts) == whole["objects"] > 9
    assert sum(p["classes"] for p in parts) == whole["classes"]
    assert all(p["objects"] > 0 for p in parts)  # else the test shows nothing


def test_chance_is_low_and_says_what_is_left_to_chance(perfect: dict[str, Any]) -> None:
    chance = perfect["splits"]["all"]["chance"]
    assert chance["AP"] < 0.1 and chance["AP50"] < 0.1 and chance["IDF1"] < 0.6
    assert chance["true_mask_accuracy"] == pytest.approx(1 / 108)


def test_shuffled_identities_lower_idf1_alone(perfect: dict[str, Any]) -> None:
    class Shuffled(Oracle):
        def identity(self, n: int, t: int) -> int:
            return (n + t) % 7 + 1

    scores = run(Shuffled)["splits"]["all"]["mean"]
    assert scores["IDF1"] < 0.5 and scores["HOTA"] < 0.6 and scores["AP"] < 0.5 and scores["true_mask_IDF1"] < 0.5
    assert scores["DetA"] == ONE and scores["true_mask_accuracy"] == ONE


def test_wrong_names_lower_ap_alone() -> None:
    class WrongColour(Oracle):
        def name(self, name: str) -> str:
            colour, rest = name.split(" ", 1)
            return f"{'blue' if colour == 'red' else 'red'} {rest}"

    scores = run(WrongColour)["splits"]["all"]["mean"]
    assert scores["AP"] < 0.1 and scores["true_mask_accuracy"] == 0.0
    assert scores["true_mask_accuracy_colour"] == 0.0
    assert scores["true_mask_accuracy_texture"] == ONE and scores["true_mask_accuracy_shape"] == ONE
    assert scores["IDF1"] == ONE and scores["HOTA"] == ONE and scores["AR10_agnostic"] == ONE


def test_other_splits_taken_for_base_do_not_count_in_base() -> None:
    names = {name for video in Oracle(SEED, VIDEOS).videos for name in video.names}
    base = min(name for name in names if split_of(name) == "base")

    class OthersTakenForBase(Oracle):
        def name(self, name: str) -> str:
            return name if split_of(name) == "base" else base

        def answer(self, camera: str, image: Any) -> Any:
            frame = super().answer(camera, image)
            for instance in frame.instances:  # and the right ones are less sure
                right = split_of(self.videos[self.batch].names[instance.track_id - 1]) == "base"
                instance.objectness = 0.8 if right else 1.0
            return frame

    scores = run(OthersTakenForBase)["splits"]
    assert scores["base"]["mean"]["AP"] == ONE and scores["base"]["mean"]["AP50"] == ONE
    assert scores["base"]["mean"]["AP_strict"] < 0.99
    assert scores["novel"]["mean"]["AP"] == 0.0 and scores["all"]["mean"]["AP"] < 0.9


def test_other_splits_badly_followed_do_not_count_in_base() -> None:
    class OthersBadlyFollowed(Oracle):
        def identity(self, n: int, t: int) -> int:
            return n + 1 if split_of(self.videos[self.batch].names[n]) == "base" else 20 + 5 * t + n

    scores = run(OthersBadlyFollowed)["splits"]
    for key in ("IDF1", "HOTA", "true_mask_IDF1", "true_mask_HOTA"):
        assert scores["base"]["mean"][key] == ONE, key
        assert scores["novel"]["mean"][key] < 0.3, key


def test_low_objectness_is_not_scored_by_the_tracking_metrics() -> None:
    class Doubtful(Oracle):
        def answer(self, camera: str, image: Any) -> Any:
            frame = super().answer(camera, image)
            for instance in frame.instances:
                instance.objectness = 0.29
            return frame

    scores = run(Doubtful)["splits"]["all"]["mean"]
    assert scores["IDF1"] == 0.0 and scores["HOTA"] == 0.0
    assert scores["AP"] == ONE and scores["true_mask_IDF1"] == ONE


def test_videos_side_by_side_give_the_same(perfect: dict[str, Any]) -> None:
    done: list[int] = []
    together = evaluate(Oracle(SEED, VIDEOS, 2), [SEED], VIDEOS, (*SPLITS, "all"), parallel=2, progress=done.append)
    assert together == perfect
    assert sum(done) == VIDEOS * 36


def test_an_engine_that_sees_nothing() -> None:
    class Blind(Oracle):
        def mask(self, mask: Any) -> Any:
            return np.zeros_like(mask)

    scores = run(Blind)["splits"]["all"]
    assert all(scores["mean"][key] == 0.0 for key in (*MAIN, "AR10_agnostic", "true_mask_accuracy", "true_mask_IDF1"))


def test_several_seeds_mean_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(Oracle):
        """Right on seed 1, blind on seed 2."""

        def mask(self, mask: Any) -> Any:
            return mask if self.batch < 1 else np.zeros_like(mask)

    engine = Half(1, 1)
    engine.videos += Oracle(2, 1).videos
    report = evaluate(engine, [1, 2, 1], 1, ["all"])
    assert report["seeds"] == [1, 2] and report["split"] == "all"
    assert report["IDF1"] == pytest.approx(0.5)
    assert report["splits"]["all"]["spread"]["IDF1"] == pytest.approx(math.sqrt(0.5))
    assert [s["IDF1"] for s in report["splits"]["all"]["per_seed"]] == [ONE, 0.0]
    table = format_table(report)
    assert "50.0 ± 70.7" in table and "by chance" in table and max(map(len, table.splitlines())) < 140


def test_dataset_is_in_the_benchmark_format() -> None:
    runs = run_videos(Oracle(SEED, 1), SEED, 1)
    data = dataset(runs)
    assert [c["name"] for c in data["categories"]] == list(ALL_NAMES)
    assert data["categories"][0]["partition"] == split_of(ALL_NAMES[0])
    assert all(len(a["segmentations"]) == data["videos"][0]["length"] == 36 for a in data["annotations"])
    assert any(None in a["segmentations"] for a in data["annotations"])  # the full occlusion
    assert math.isnan(score_runs(runs, ["all"])["all"]["AP"]) is False


def test_seeds_are_apart_and_bad_numbers_refused() -> None:
    assert not set(video_seeds(1, 10_000)) & set(video_seeds(2, 10_000)) and min(video_seeds(0, 5)) >= 1_000_000_000
    for call, message in (
        (lambda: video_seeds(-1, 5), "evaluation seed -1"),
        (lambda: video_seeds(1, 0), "0 videos"),
        (lambda: evaluate(Oracle(1, 1), [], 1), "no evaluation seed"),
        (lambda: evaluate(Oracle(1, 1), [1], 1, ["rare"]), "ToyVIS split 'rare'"),
    ):
        with pytest.raises(InstformerError, match=message):
            call()
