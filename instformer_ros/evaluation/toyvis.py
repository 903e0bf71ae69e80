"""The ToyVIS benchmark: how well named, found and followed, for each split of the classes.

Protocol. Videos mix objects of all splits; the vocabulary is all 108 names; they are run once and every split is scored
from that run. A split's AP is the mean over those of its classes that occur. Objects of other splits are ignored:
predictions on them count neither as right nor as wrong (``AP_strict`` counts them as wrong, as benchmarks with
a base / novel split do). HOTA, IDF1 and ``AR10_agnostic`` ask for masks and identities alone; HOTA and IDF1 take
detections of objectness >= 0.3. The figures ``true_mask_*`` come from a second run in which the true masks stand in
the place of the proposals' masks and tracks are managed: what is lost there is lost by naming or by following.

Chance, beside them: for AP and AR the same masks and scores, but each track's class distribution shuffled; for HOTA and
IDF1 the same masks, but the identities dealt anew in every frame; for accuracy one in 108.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from instformer_ros.data.toyvis import ALL_NAMES, SPLITS, class_names, split_of
from instformer_ros.evaluation import tracking
from instformer_ros.evaluation.results import VideoTrack, result_entries
from instformer_ros.evaluation.toyvis_run import Engine, VideoRun, run_videos
from instformer_ros.evaluation.tracking import FrameObjects, TrackingVideo
from instformer_ros.evaluation.video_ap import VideoAp
from instformer_ros.settings import LifeCycle
from instformer_ros.structures import InstformerError

MAIN = ("AP", "AP50", "AR10", "IDF1", "HOTA")
CHANCE_DRAWS = 5
ATTRIBUTES = ("colour", "texture", "shape")  # the three words of a name, in this order

Numbers = dict[str, float]


def evaluate(
    engine: Engine,
    seeds: Sequence[int] = (1,),
    videos: int = 60,
    splits: Sequence[str] = tuple(SPLITS),
    parallel: int = 1,
    life_cycle: LifeCycle = "slots",
    progress: Callable[[int], object] = lambda frames: None,
) -> dict[str, Any]:
    """Runs and scores the benchmark; JSON-ready but for NaN, which stands where a number is undefined.

    Args:
        engine: its settings are put back at the end.
        seeds: evaluation seeds, each with its own ``videos`` videos.
        splits: any of base, novel, compositional, all.
        parallel: videos in one network pass.
        life_cycle: of the tracks; "slots" is the paper's.
        progress: told of frames as they are done.

    Returns:
        ``{"seeds", "videos", "splits": {split: {"mean", "spread", "chance", "per_seed"}}}`` and on the top level the
        means of the one split asked for, or of "all" if it is among several. Spread is the sample standard deviation
        over the seeds.

    Raises:
        InstformerError: an unknown split, or bad numbers of seeds or videos.
    """
    if not seeds:
        raise InstformerError("no evaluation seed given; give at least one")
    for split in splits:
        class_names(split)  # an unknown one is an error before the long run
    per_seed: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    for seed in dict.fromkeys(seeds):
        runs = run_videos(engine, seed, videos, parallel, life_cycle, progress)
        for split, scores in score_runs(runs, splits, seed).items():
            per_seed[split].append({"seed": seed, **scores})
    report: dict[str, Any] = {"seeds": list(dict.fromkeys(seeds)), "videos": videos}
    report["splits"] = {split: _over_seeds(scores) for split, scores in per_seed.items()}
    top = splits[0] if len(splits) == 1 else "all"
    if top in report["splits"]:
        report = {"split": top, **report["splits"][top]["mean"], **report}
    return report


def score_runs(runs: Sequence[VideoRun], splits: Sequence[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Scores of each split from one run of all videos: the numbers, ``chance`` and ``AP50_per_class``."""
    truth = dataset(runs)
    named = VideoAp(truth, entries(runs))
    agnostic = VideoAp(truth, agnostic_entries(runs))
    rng = np.random.default_rng(seed)
    shuffled = [VideoAp(truth, entries(_shuffle_names(runs, rng))) for _ in range(CHANCE_DRAWS)]
    dealt = [_deal_identities(run.tracking, rng) for run in runs]
    out: dict[str, dict[str, Any]] = {}
    for split in splits:
        chosen = set(class_names(split))
        classes = [n for n, name in enumerate(ALL_NAMES, 1) if name in chosen]
        others = [a["id"] for a in truth["annotations"] if a["category_id"] not in set(classes)]
        hidden = [frozenset(n for n, name in enumerate(run.names) if name not in chosen) for run in runs]
        scores = named.score(classes, others)
        chance = [ap.score(classes, others) for ap in shuffled]
        dealt_scores = tracking.score(dealt, hidden)
        out[split] = {
            **{key: value for key, value in scores.summary().items() if key[2:] not in ("s", "m", "l")},
            "AP_strict": named.score(classes).ap(),
            "AR10_agnostic": agnostic.score(ignore=others, class_agnostic=True).ar(10),
            **tracking.score([run.tracking for run in runs], hidden),
            **_with_true_masks(runs, chosen, hidden),
            "classes": len(scores.per_class()),
            "objects": sum(name in chosen for run in runs for name in run.names),
            "chance": {
                "AP": _mean([c.ap() for c in chance]),
                "AP50": _mean([c.ap(0.5) for c in chance]),
                "AR10": _mean([c.ar(10) for c in chance]),
                "IDF1": dealt_scores["IDF1"],
                "HOTA": dealt_scores["HOTA"],
                "true_mask_accuracy": 1 / len(ALL_NAMES),
            },
            "AP50_per_class": {ALL_NAMES[c - 1]: v["AP50"] for c, v in scores.per_class().items() if c is not None},
        }
    return out


def dataset(runs: Sequence[VideoRun]) -> dict[str, Any]:
    """The videos' ground truth in the YouTube-VIS format; category ids count from 1 in the order of ``ALL_NAMES``."""
    annotations: list[dict[str, Any]] = []
    for run in runs:
        for n, name in enumerate(run.names):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": run.video_id,
                    "category_id": ALL_NAMES.index(name) + 1,
                    "segmentations": [frame[n] for frame in run.truth],
                    "iscrowd": 0,
                }
            )
    return {
        "videos": [{"id": r.video_id, "height": r.height, "width": r.width, "length": r.length} for r in runs],
        "categories": [{"id": n, "name": name, "partition": split_of(name)} for n, name in enumerate(ALL_NAMES, 1)],
        "annotations": annotations,
    }


def entries(runs: Sequence[VideoRun]) -> list[dict[str, Any]]:
    """The runs' predictions in the YouTube-VIS results format: the best 100 (track, class) pairs of every video."""
    return [entry for run in runs for entry in result_entries(run.tracks, run.video_id, ALL_NAMES)]


def agnostic_entries(runs: Sequence[VideoRun]) -> list[dict[str, Any]]:
    """As :func:`entries`, each track once, as an "object"."""
    return [entry for run in runs for entry in result_entries(run.tracks, run.video_id, ())]


def format_table(report: dict[str, Any]) -> str:
    """The report as a table for people, in per cent."""
    columns = [*MAIN, "AR10_agnostic", "true_mask_accuracy", "true_mask_IDF1"]
    heads = ["AP", "AP50", "AR10", "IDF1", "HOTA", "AR10 agn.", "true m. acc.", "true m. IDF1"]
    several = len(report["seeds"]) > 1
    lines = ["".join(f"{head:>14}" for head in ["split", *heads])]
    for split, scores in report["splits"].items():
        cells = [split]
        for column in columns:
            spread = f" ± {100 * scores['spread'][column]:.1f}" if several else ""
            cells.append(f"{100 * scores['mean'][column]:.1f}{spread}")
        lines.append("".join(f"{cell:>14}" for cell in cells))
        chance = [f"{100 * scores['chance'][c]:.2f}" if c in scores["chance"] else "" for c in columns]
        lines.append("".join(f"{cell:>14}" for cell in ["by chance", *chance]).rstrip())
    return "\n".join(lines)


def _with_true_masks(runs: Sequence[VideoRun], chosen: set[str], hidden: list[frozenset[int]]) -> Numbers:
    """Naming and tracking when the masks are true: accuracy over visible objects and frames, also word by word."""
    pairs = [(run.names[n], given) for run in runs for n, given in run.true_mask_names if run.names[n] in chosen]
    scores = tracking.score([run.true_mask_tracking for run in runs], hidden)
    return {
        "true_mask_accuracy": _mean([true == given for true, given in pairs]),
        **{
            f"true_mask_accuracy_{attribute}": _mean([t.split()[k] == (g.split() or ["", "", ""])[k] for t, g in pairs])
            for k, attribute in enumerate(ATTRIBUTES)
        },
        "true_mask_IDF1": scores["IDF1"],
        "true_mask_HOTA": scores["HOTA"],
    }


def _shuffle_names(runs: Sequence[VideoRun], rng: np.random.Generator) -> list[VideoRun]:
    """The same tracks, each with its class distribution shuffled over the names."""

    def shuffled(track: VideoTrack) -> VideoTrack:
        return replace(track, class_scores=rng.permutation(track.class_scores))

    return [replace(run, tracks=[shuffled(track) for track in run.tracks]) for run in runs]


def _deal_identities(video: TrackingVideo, rng: np.random.Generator) -> TrackingVideo:
    """The same masks, with the identities of every frame shuffled among them."""
    found = [FrameObjects([int(i) for i in rng.permutation(frame.ids)], frame.masks) for frame in video.found]
    return TrackingVideo(video.truth, found)


def _over_seeds(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds; a seed in which a number is undefined stays out of it."""
    keys = [key for key, value in scores[0].items() if isinstance(value, int | float) and key != "seed"]
    return {
        "mean": {key: _mean([s[key] for s in scores]) for key in keys},
        "spread": {key: _spread([s[key] for s in scores]) for key in keys},
        "chance": {key: _mean([s["chance"][key] for s in scores]) for key in scores[0]["chance"]},
        "per_seed": scores,
    }


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def _spread(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
