"""A large vocabulary set while frames flow: time until it is in force, and the frame rate meanwhile.

    python benchmarks/vocabulary_swap.py --words lvis.json --model toyvis

`--words` is a text file with a name a line, or JSON: a list of names, or LVIS's categories. Without it: made-up names.
Frames are offered as fast as the node takes them, so the rate is that of the network. First without any change (the
usual), then while the words are new (cold), then in a second engine that finds them on disk (cached). No ROS is needed:
:class:`Pipeline` is all of the node that matters here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from instformer_ros.engine import Engine
from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.nodes.protocols import Pixels
from instformer_ros.structures import TrackedFrame, Vocabulary


@dataclass
class Picture:
    image: Pixels


class Outlet:
    """Notes when every frame was answered."""

    def __init__(self, image: Pixels) -> None:
        self.answers: list[float] = []
        self._frame = Picture(image)

    def decode(self, camera: str, message: object) -> Picture:
        return self._frame

    def publish(self, camera: str, frame: Picture, answer: TrackedFrame) -> None:
        self.answers.append(time.perf_counter())

    def vocabulary_changed(self, vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None: ...

    def complain(self, subject: str, error: BaseException) -> None:
        raise error

    def died(self, error: BaseException) -> None:
        raise error


def read_words(path: str | None) -> list[str]:
    """Names from a file, or 1203 made-up ones of two or three words."""
    if path is None:
        colours, sizes, things = ["red", "green", "blue", "grey"], ["tall", "flat", "round"], range(101)
        return [f"{size} {colour} thing {number}" for number in things for size in sizes for colour in colours][:1203]
    text = Path(path).read_text(encoding="utf-8")
    if not path.endswith(".json"):
        return text.splitlines()
    return [entry if isinstance(entry, str) else entry["name"].replace("_", " ") for entry in json.loads(text)]


def swap(words: list[str], model: str, device: str, image: Pixels, seconds: float) -> dict[str, float]:
    """One engine: frames a second before, during and after a change to ``words``, and the seconds it took."""
    engine = Engine.load(model, device)
    engine.set_vocabulary(["mug"])
    engine.warm_up(*image.shape[:2])
    outlet = Outlet(image)
    pipeline: Pipeline[object, Picture] = Pipeline(engine, outlet)
    stop = threading.Event()

    def film() -> None:
        sent = -1
        while not stop.is_set():
            if len(outlet.answers) > sent:  # the one before is answered
                sent = len(outlet.answers)
                pipeline.put("", None)
            time.sleep(0.001)

    camera = threading.Thread(target=film)
    camera.start()
    time.sleep(2.0)  # warm-up
    begun = time.perf_counter()
    time.sleep(seconds)
    changed = time.perf_counter()
    pipeline.set_vocabulary(words).result()
    ended = time.perf_counter()
    time.sleep(seconds)
    finished = time.perf_counter()
    stop.set()
    camera.join()
    pipeline.close()

    def rate(start: float, end: float) -> float:
        return sum(start < when <= end for when in outlet.answers) / (end - start)

    return {
        "before": rate(begun, changed),
        "during": rate(changed, ended),
        "after": rate(ended, finished),
        "seconds": ended - changed,
        "longest gap": max(np.diff([when for when in outlet.answers if when > changed - 1.0])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words")
    parser.add_argument("--model", default="toyvis")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--seconds", type=float, default=8.0, help="of frames before and after the change")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    words = read_words(arguments.words)
    width, height = (int(number) for number in arguments.size.split("x"))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    print(f"{len(words)} words, {arguments.model}, {arguments.size}, {torch.get_num_threads()} threads of torch")
    rows: dict[str, list[dict[str, float]]] = {"cold": [], "cached": []}
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            for kind in rows:
                rows[kind].append(swap(words, arguments.model, arguments.device, image, arguments.seconds))
    for kind, runs in rows.items():
        shares = [run["during"] / statistics.mean([run["before"], run["after"]]) for run in runs]
        print(
            f"{kind}: in force after {_span([run['seconds'] for run in runs])} s; frames a second before "
            f"{_span([run['before'] for run in runs])}, during {_span([run['during'] for run in runs])}, after "
            f"{_span([run['after'] for run in runs])}; share {_span(shares)}; longest gap between two frames "
            f"{_span([run['longest gap'] for run in runs])} s"
        )


def _span(values: list[float]) -> str:
    """Median, and least and greatest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


if __name__ == "__main__":
    main()
