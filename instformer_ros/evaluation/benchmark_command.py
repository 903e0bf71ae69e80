"""The work of ``instformer evaluate youtube-vis`` and its like: predictions by a model or from a file, scored."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instformer_ros.data.annotation_file import read_json
from instformer_ros.data.burst import burst_dataset
from instformer_ros.data.videos import VideoDataset
from instformer_ros.data.youtube_vis import has_truth, youtube_vis_dataset
from instformer_ros.evaluation.benchmarks import format_table, score
from instformer_ros.evaluation.burst import burst_submission
from instformer_ros.evaluation.results import check_writable, write_json
from instformer_ros.evaluation.tracking import is_available
from instformer_ros.structures import InstformerError

_FORMAT = ("video_id", "category_id", "score", "segmentations")  # keys of the YouTube-VIS results format


def evaluate_benchmark(options: argparse.Namespace) -> int:
    """Evaluates as the command line says and prints a table.

    Raises:
        InstformerError: bad or missing files, no model, or a place that cannot be written to.
    """
    if (options.predictions is None) == (options.images is None):
        raise InstformerError("give either --images, to run a model, or --predictions, to score a results file")
    check_writable(options.json)
    check_writable(options.submission)
    truth = read_json(options.annotations)
    if not isinstance(truth, Mapping):
        raise InstformerError(f"{options.annotations}: not a benchmark's annotation file; check the path")
    judged = _has_truth(options.benchmark, truth)
    if not judged and (options.submission is None or options.json is not None):
        raise InstformerError(
            f"{options.annotations}: holds no annotations, so nothing can be scored: check that it is the right "
            "file; for a test set write a --submission, no --json"
        )
    if options.predictions is not None:
        predictions = _read_predictions(options.predictions)
    else:
        predictions = _predict(options, truth)
    if options.submission is not None:
        _write_submission(options.submission, predictions)
        print(f"results: {options.submission}")
    if judged:
        numbers = score(options.benchmark, truth, predictions, str(options.annotations))
        print(format_table(options.benchmark, numbers))
        if not is_available():
            print("HOTA and IDF1 are left out: they need trackeval (pip install trackeval)")
        if options.json is not None:
            by = {"predictions": str(options.predictions)} if options.predictions else {"model": options.model}
            write_json(options.json, {"benchmark": options.benchmark, **by, **numbers})
    return 0


def _has_truth(benchmark: str, truth: Mapping[str, Any]) -> bool:
    if benchmark != "burst":
        return has_truth(truth)
    sequences = truth.get("sequences")
    return bool(sequences) and all("segmentations" in s for s in sequences or () if isinstance(s, Mapping))


def _read_predictions(path: Path) -> Any:
    """A json file, or the zip file with one in it that the servers take."""
    if path.suffix != ".zip":
        return read_json(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".json")]
            if len(names) != 1:
                raise InstformerError(f"{path}: holds {len(names)} json files; expected one")
            return json.loads(archive.read(names[0]))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InstformerError(f"{path}: cannot be read ({error}); give a json file, or a zip with one") from error


def _predict(options: argparse.Namespace, truth: Mapping[str, Any]) -> Any:
    from tqdm import tqdm

    from instformer_ros.engine import Engine  # brings torch
    from instformer_ros.evaluation.benchmark_run import run_dataset

    dataset = _dataset(options, truth)
    engine = Engine.load(options.model, options.device, precision=options.precision)
    try:
        with tqdm(total=sum(v.length for v in dataset.videos), desc=options.benchmark, unit="frame") as bar:
            entries = run_dataset(engine, dataset, options.benchmark == "uvo", options.life_cycle, bar.update)
    finally:
        engine.close()
    return burst_submission(truth, entries) if options.benchmark == "burst" else entries


def _dataset(options: argparse.Namespace, truth: Mapping[str, Any]) -> VideoDataset:
    read = burst_dataset if options.benchmark == "burst" else youtube_vis_dataset
    return read(truth, options.images, options.benchmark, str(options.annotations))


def _write_submission(path: Path, predictions: Any) -> None:
    """BURST's file as it is; else the format's own keys alone. A zip holds them as ``results.json``."""
    if isinstance(predictions, list):
        predictions = [{key: entry[key] for key in _FORMAT} for entry in predictions]
    if path.suffix != ".zip":
        write_json(path, predictions)
        return
    partial = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("results.json", json.dumps(predictions))
        os.replace(partial, path)
    except OSError as error:
        raise InstformerError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
