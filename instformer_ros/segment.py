"""``instformer segment``: a video, a folder of pictures, a bag or ToyVIS in; tracks, an overlay and a summary out."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from instformer_ros.bag_writer import BagWriter
from instformer_ros.data.source import Source
from instformer_ros.data.sources import open_source
from instformer_ros.devices import peak_memory
from instformer_ros.draw import overlay
from instformer_ros.engine import Engine, Settings, parse_vocabulary
from instformer_ros.evaluation.results import TrackCollector, VideoTrack, result_entries, write_json
from instformer_ros.ready_vocabulary import read_embeddings
from instformer_ros.structures import InstformerError

CAMERA = "video"
TRACKS, OVERLAY, SUMMARY = "tracks.json", "overlay.mp4", "summary.json"


@dataclass(frozen=True)
class SegmentOptions:
    """What the command line says; ``vocabulary`` is comma separated, empty = class-agnostic, or all ready-made ones."""

    source: str
    vocabulary: str
    output: Path
    model: str = "toyvis"
    device: str = "auto"
    precision: str = "auto"  # of the network, as Engine.load takes it
    max_frames: int | None = None
    score_threshold: float | None = None  # None: the engine's default
    vocabulary_embeddings: Path | None = None  # ready-made text embeddings, see ready_vocabulary.py
    topic: str = ""  # of the images in a bag
    output_bag: Path | None = None  # an mcap file for the instances and the overlay


def segment(options: SegmentOptions) -> dict[str, Any]:
    """Does the whole job, shows its progress, and returns what ``summary.json`` holds.

    Raises:
        InstformerError: the source, the model, the device, the words or the output folder are of no use.
    """
    settings = Settings(class_scores=True)
    if options.score_threshold is not None:
        settings = replace(settings, score_threshold=options.score_threshold)
    words = parse_vocabulary(options.vocabulary)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(options.source, options.max_frames, options.topic))
        output = _folder(options.output)
        bag = stack.enter_context(BagWriter(options.output_bag)) if options.output_bag else None
        engine = Engine.load(options.model, options.device, settings, precision=options.precision)
        try:
            if options.vocabulary_embeddings:
                ready = read_embeddings(options.vocabulary_embeddings).choose(words)
                engine.use_vocabulary(engine.encode_embeddings(ready))
            else:
                engine.set_vocabulary(words)
            collector, times, seconds = _run(engine, source, output / OVERLAY, bag)
            unknown, memory = list(engine.unknown_words), peak_memory(engine.device)
        finally:
            engine.close()
    tracks = collector.tracks()
    names = collector.names
    entries = result_entries(tracks, 1, names, limit=len(tracks), classes_per_track=1)
    entries.sort(key=lambda entry: entry["track_id"])
    write_json(output / TRACKS, entries)
    summary = {
        "source": options.source,
        "model": options.model,
        "device": options.device,
        "precision": options.precision,
        "vocabulary": list(names),
        "unknown_words": unknown,
        "frames": collector.length,
        "width": collector.width,
        "height": collector.height,
        "source_fps": source.fps,
        "seconds": seconds,
        "fps": collector.length / seconds,
        "peak_memory_bytes": memory,
        "stages": {
            stage: {"seconds": sum(t), "mean_ms": 1000 * float(np.mean(t)), "median_ms": 1000 * float(np.median(t))}
            for stage, t in times.items()
        },
        "tracks": [_describe(track, entry) for track, entry in zip(tracks, entries, strict=True)],
    }
    write_json(output / SUMMARY, summary)
    return summary


def format_summary(summary: dict[str, Any]) -> str:
    """A short table for people: what was seen, and how fast."""
    lines = [f"{'track':>6}  {'name':<28} {'score':>6} {'frames':>7} {'first':>6} {'last':>6}"]
    for t in summary["tracks"]:
        name = t["category_name"] if len(t["category_name"]) <= 28 else t["category_name"][:27] + "…"
        seen = f"{t['frames']:>7} {t['first_frame']:>6} {t['last_frame']:>6}"
        lines.append(f"{t['track_id']:>6}  {name:<28} {t['score']:>6.2f} {seen}")
    if not summary["tracks"]:
        lines.append("        nothing was seen")
    if summary["unknown_words"]:
        lines.append(f"The model was never trained on: {', '.join(summary['unknown_words'])}")
    stages = ", ".join(f"{stage} {t['mean_ms']:.1f}" for stage, t in summary["stages"].items())
    frames = f"{summary['frames']} frame{'s' * (summary['frames'] != 1)}"
    lines.append(f"{frames}, {summary['fps']:.1f} a second (ms a frame: {stages})")
    lines.append(f"peak memory: {summary['peak_memory_bytes'] / 2**20:.0f} MiB")
    return "\n".join(lines)


def _run(
    engine: Engine, source: Source, path: Path, bag: BagWriter | None
) -> tuple[TrackCollector, dict[str, list[float]], float]:
    """All frames through the engine and into the overlay video and the bag; times by stage, and seconds in all."""
    collector, times = TrackCollector(), _Times()
    start = time.perf_counter()
    with _VideoFile(path, source.fps) as video:
        for image in tqdm(source, total=source.length, desc=f"segmenting {source.name}", unit="frame"):
            times.lap("read")
            frame = engine.step({CAMERA: image})[CAMERA]
            for stage, seconds in frame.timings.items():
                times.stages[stage].append(seconds)
            times.lap("engine, all of it")
            collector.add(frame)
            drawn = overlay(image, frame)
            times.lap("draw")
            video.add(drawn)
            if bag is not None:
                bag.add(source.header, frame, drawn)
            times.lap("write")
    if not collector.length:
        raise InstformerError(f"'{source.name}': no frame could be read; check that it plays")
    return collector, dict(times.stages), time.perf_counter() - start


class _Times:
    """Seconds of every stage and frame."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = defaultdict(list)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Books the time since the last lap under ``stage``."""
        now = time.perf_counter()
        self.stages[stage].append(now - self._last)
        self._last = now


def _describe(track: VideoTrack, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "track_id": track.track_id,
        "category_name": entry["category_name"],
        "score": entry["score"],
        "frames": track.frames,
        "first_frame": track.first,
        "last_frame": track.last,
    }


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InstformerError(
            f"output '{path}': cannot be written ({error.strerror}); choose another folder"
        ) from error
    return path


class _VideoFile:
    """An mp4 file (MPEG-4 part 2, which OpenCV's FFmpeg writes everywhere) that is whole or, after an error, absent."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> _VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
            if error is None:
                os.replace(self._part, self._path)
        self._part.unlink(missing_ok=True)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Adds an (H, W, 3) RGB frame. The codec wants even sides: odd ones gain a pixel.

        Raises:
            InstformerError: this OpenCV cannot write the file.
        """
        height, width = image.shape[:2]
        if self._writer is None:
            self._size = (width + width % 2, height + height % 2)
            self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, self._size)
            if not self._writer.isOpened():
                raise InstformerError(
                    f"{self._path}: OpenCV writes no mp4 of {width}x{height} here; use pictures of at most "
                    "8000 a side, or install opencv-python-headless by pip"
                )
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if (width, height) != self._size:
            bgr = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
