"""Runs an engine over a benchmark's videos and gives its predictions in the YouTube-VIS results format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from instformer_ros.data.videos import VideoDataset
from instformer_ros.evaluation.results import TrackCollector, result_entries
from instformer_ros.evaluation.toyvis_run import Engine, settings
from instformer_ros.settings import LifeCycle

_CAMERA = "video"


def run_dataset(
    engine: Engine,
    dataset: VideoDataset,
    class_agnostic: bool = False,
    life_cycle: LifeCycle = "slots",
    progress: Callable[[int], object] = lambda frames: None,
) -> list[dict[str, Any]]:
    """Predictions for all videos: the best 100 (track, class) pairs of each; category ids are the data set's.

    Args:
        engine: its vocabulary changes; its settings are put back at the end.
        dataset: only its pictures and its classes are looked at.
        class_agnostic: no words; every track is an object of the data set's first class.
        life_cycle: of the tracks; "slots" is the paper's.
        progress: told of frames as they are done.
    """
    names = () if class_agnostic else dataset.classes
    before, entries = engine.settings, []
    engine.set_vocabulary(names)
    engine.settings = settings(life_cycle)[0]
    try:
        for number, video in enumerate(dataset.videos, 1):
            engine.reset()
            collector = TrackCollector()
            for t in range(video.length):
                collector.add(engine.step({_CAMERA: video.frame(t)[0]})[_CAMERA])
                progress(1)
            video_id = getattr(video, "video_id", number)
            entries += result_entries(collector.tracks(), video_id, names)
    finally:
        engine.settings = before
    for entry in entries:
        entry["category_id"] = dataset.category_ids[entry["category_id"] - 1]
    return entries
