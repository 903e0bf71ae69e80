"""Scores of a model in training, on validation videos. The model stays as it is."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch

from instformer_ros.data.videos import AnnotatedVideo, VideoDataset
from instformer_ros.engine import Engine
from instformer_ros.evaluation.results import TrackCollector, result_entries
from instformer_ros.evaluation.toyvis import score_runs
from instformer_ros.evaluation.toyvis_run import run_videos, settings
from instformer_ros.evaluation.video_ap import VideoAp
from instformer_ros.model.instformer import InstFormer
from instformer_ros.structures import InstformerError

VALIDATION_SEED = 98  # evaluation seed that no score of the model card is measured on
_SHOWN = ("AP", "AP50", "AR10_agnostic", "IDF1", "true_mask_accuracy", "true_mask_IDF1")


def check_evaluation() -> None:
    """Raises InstformerError: trackeval, an extra, is not installed."""
    if importlib.util.find_spec("trackeval") is None:
        raise InstformerError("--evaluate-every: HOTA and IDF1 need trackeval; pip install trackeval, or use 0")


def toyvis_scores(model: InstFormer, device: torch.device, videos: int) -> dict[str, float]:
    """The benchmark's main scores over all classes, in [0, 1], life cycle ``managed``."""
    engine = Engine(copy.deepcopy(model), device)
    scores = score_runs(run_videos(engine, VALIDATION_SEED, videos, life_cycle="managed"), ["all"])["all"]
    return {key: float(scores[key]) for key in _SHOWN}


def video_scores(model: InstFormer, device: torch.device, dataset: VideoDataset, count: int) -> dict[str, float]:
    """AP and AR, in [0, 1], of the first ``count`` videos of an annotated data set.

    Life cycle ``slots``, as the paper's. A number that is undefined is left out.
    """
    engine = Engine(copy.deepcopy(model), device, settings("slots")[0])
    engine.set_vocabulary(dataset.classes)
    videos = [video for video in dataset.videos[:count] if isinstance(video, AnnotatedVideo)]
    entries: list[dict[str, Any]] = []
    for number, video in enumerate(videos, 1):
        collector = TrackCollector()
        engine.reset()
        for t in range(video.length):
            collector.add(engine.step({"": video.image(t)})[""])
        entries += result_entries(collector.tracks(), number, dataset.classes)
    summary = VideoAp(_truth(videos, dataset.classes), entries).score().summary()
    shown = ("AP", "AP50", "AP75", "AR1", "AR10")
    return {key: float(summary[key]) for key in shown if not math.isnan(summary[key])}


def _truth(videos: Sequence[AnnotatedVideo], classes: Sequence[str]) -> dict[str, Any]:
    """The videos' ground truth in the YouTube-VIS format, everything numbered from 1."""
    annotations: list[dict[str, Any]] = []
    for number, video in enumerate(videos, 1):
        frames = [video.rles(t) for t in range(video.length)]
        for k, name in enumerate(video.names):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": classes.index(name) + 1,
                    "segmentations": [frame[k] for frame in frames],
                    "iscrowd": 0,
                }
            )
    return {
        "videos": [
            {"id": n, "height": v.height, "width": v.width, "length": v.length} for n, v in enumerate(videos, 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, 1)],
        "annotations": annotations,
    }
