"""Speed of the video AP evaluation, beside the public YouTube-VIS evaluator where its two files are at hand.

    python benchmarks/video_ap.py --videos 300 --reference cocoapi/PythonAPI/pycocotools

``--reference`` is a folder that holds ``ytvos.py`` and ``ytvoseval.py`` of github.com/youtubevos/cocoapi; they are run
as they are but for what numpy and matplotlib have dropped since. Both get the same data, in turns.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import tempfile
import time
import types
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from instformer_ros.evaluation.video_ap import VideoAp
from instformer_ros.masks import area, encode

HEIGHT, WIDTH, FRAMES, DETECTIONS, OBJECTS, CLASSES = 360, 640, 36, 100, 4, 40


def track(rng: np.random.Generator, like: Any = None) -> tuple[Any, list[Any]]:
    """An ellipse that drifts, or one that lies near another; its way and its run lengths."""
    if like is None:
        way = (rng.uniform(60, 300, 2), rng.uniform(-3, 3, 2), rng.uniform(15, 70, 2), rng.uniform(0, 180))
    else:
        way = (like[0] + rng.normal(0, 8, 2), like[1], like[2] * rng.uniform(0.7, 1.3, 2), like[3])
    start, step, axes, angle = way
    masks = []
    for t in range(FRAMES):
        picture = np.zeros((HEIGHT, WIDTH), np.uint8)
        centre = start + step * t
        cv2.ellipse(picture, (tuple(centre.tolist()), tuple(2 * axes), angle), 1, -1)
        rle = encode(picture.astype(bool)) if rng.random() > 0.1 else None
        masks.append(rle and {"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    return way, masks


def make(videos: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth of 4 objects a video, and 100 predictions: 25 tracks, each under four of 40 classes."""
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {"videos": [], "annotations": [], "categories": [{"id": c} for c in range(1, CLASSES + 1)]}
    results = []
    for v in range(1, videos + 1):
        data["videos"].append({"id": v, "height": HEIGHT, "width": WIDTH, "length": FRAMES})
        objects = [(*track(rng), int(rng.integers(1, CLASSES + 1))) for _ in range(OBJECTS)]
        for _, masks, category in objects:
            areas = [None if m is None else area(m) for m in masks]
            entry = {"id": len(data["annotations"]) + 1, "video_id": v, "category_id": category, "iscrowd": 0}
            data["annotations"].append({**entry, "segmentations": masks, "areas": areas})
        for _ in range(DETECTIONS // 4):
            way, _, category = objects[int(rng.integers(OBJECTS))]
            masks = track(rng, way)[1]
            others = rng.choice(np.arange(1, CLASSES + 1), 3, replace=False).tolist()
            results += [
                {"video_id": v, "category_id": c, "score": float(rng.random()), "segmentations": masks}
                for c in (category, *others)
            ]
    return data, results


def ours(data: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    return list(VideoAp(data, results).score().summary().values())


def public(folder: Path, data: dict[str, Any], results: Path) -> list[float]:
    """The public evaluator's twelve numbers."""
    vars(np).setdefault("float", float)
    modules = {}
    for name in ("ytvos", "ytvoseval"):
        text = (folder / f"{name}.py").read_text().replace("from . import mask", "from pycocotools import mask")
        lines = [line for line in text.splitlines() if "matplotlib" not in line]
        text = "\n".join(lines).replace(".05) + 1, endpoint", ".05).astype(int) + 1, endpoint")
        text = text.replace(".01) + 1, endpoint", ".01).astype(int) + 1, endpoint")
        modules[name] = types.ModuleType(name)
        exec(compile(text, name, "exec"), vars(modules[name]))
    with redirect_stdout(io.StringIO()):
        truth = modules["ytvos"].YTVOS()
        truth.dataset = data
        truth.createIndex()
        run = modules["ytvoseval"].YTVOSeval(truth, truth.loadRes(str(results)), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float("nan") if value == -1 else float(value) for value in run.stats]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="folder of ytvos.py and ytvoseval.py")
    options = parser.parse_args()
    data, results = make(options.videos)
    times: dict[str, list[float]] = {"ours": [], "public": []}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(results, file)
        file.flush()
        for _ in range(options.rounds):
            start = time.process_time()
            with open(file.name) as again:  # the public one reads the file as well
                numbers = ours(data, json.load(again))
            times["ours"].append(time.process_time() - start)
            if options.reference:
                truth = copy.deepcopy(data)
                start = time.process_time()
                theirs = public(options.reference, truth, Path(file.name))
                times["public"].append(time.process_time() - start)
                np.testing.assert_allclose(numbers, theirs, rtol=0, atol=1e-12)
    for name, seconds in times.items():
        if seconds:
            print(f"{name}: {', '.join(f'{s:.1f}' for s in seconds)} s of CPU time for {options.videos} videos")
    if times["public"]:
        ratios = [a / b for a, b in zip(times["ours"], times["public"], strict=True)]
        print(f"ours / public: {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
