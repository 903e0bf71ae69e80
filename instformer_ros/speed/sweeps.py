"""How the cost of a frame grows with instances, words, cameras and the size of the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from instformer_ros.engine import Engine
from instformer_ros.model.guidance import MASK_STRIDE
from instformer_ros.network import Network
from instformer_ros.preprocess import network_input
from instformer_ros.speed.subjects import Subject, frames
from instformer_ros.speed.timing import Series, interleave

INSTANCES = (1, 10, 30, 100, 300)
WORDS = (1, 10, 100, 1000, 10_000)
CAMERAS = (1, 2, 4, 8)
SIZES = ((426, 240), (640, 360), (854, 480), (1280, 720), (1920, 1080))  # width, height


def instances(subject: Subject, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """One pass of InstCLIP for N instances; ``size`` = (width, height) of the picture. On a GPU without graphs."""
    network = Network(subject.copy(), subject.device, subject.precision)
    images = network_input(frames(*size, count=1), subject.config, subject.device)
    generator = torch.Generator().manual_seed(0)
    shape = (1, max(INSTANCES), images.shape[-2] // MASK_STRIDE, images.shape[-1] // MASK_STRIDE)
    masks = torch.randn(shape, generator=generator).to(subject.device)
    start = torch.arange(max(INSTANCES), device=subject.device) % subject.config.proposals.queries

    def contender(count: int) -> Callable[[], object]:
        return lambda: network.tokens(images, masks[:, :count], start[:count])

    with torch.inference_mode():
        return _grow({count: contender(count) for count in INSTANCES}, rounds, subject)


def words(subject: Subject, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """A whole frame with K words in force; the same instances are published whatever share a word gets."""
    pictures = frames(*size)

    def contender(count: int) -> Callable[[], object]:
        engine = subject.engine()
        engine.settings = replace(engine.settings, score_threshold=0.0)
        engine.use_vocabulary(subject.words(count))
        return player(engine, [{"camera": picture} for picture in pictures])

    return _grow({count: contender(count) for count in WORDS}, rounds, subject)


def cameras(subject: Subject, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """A whole frame of each of C cameras at once."""
    pictures = frames(*size)

    def contender(count: int) -> Callable[[], object]:
        starts = range(len(pictures))
        rows = [{f"camera {i}": pictures[(t + i) % len(pictures)] for i in range(count)} for t in starts]
        return player(subject.engine(), rows)

    return _grow({count: contender(count) for count in CAMERAS}, rounds, subject)


def sizes(subject: Subject, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """A whole frame of W x H pixels; the network sees all of them at its own size. ``size`` is not used."""
    contenders = {
        f"{w}x{h}": player(subject.engine(), [{"camera": picture} for picture in frames(w, h)]) for w, h in SIZES
    }
    return _grow(contenders, rounds, subject)


SWEEPS: dict[str, Callable[[Subject, tuple[int, int], int], dict[str, Any]]] = {
    "instances": instances,
    "words": words,
    "cameras": cameras,
    "sizes": sizes,
}


def player(engine: Engine, rounds: list[dict[str, Any]]) -> Callable[[], object]:
    """Steps through the pictures, again and again."""
    turn = -1

    def step() -> object:
        nonlocal turn
        turn += 1
        return engine.step(rounds[turn % len(rounds)])

    return step


def _grow(contenders: dict[Any, Callable[[], object]], rounds: int, subject: Subject) -> dict[str, Any]:
    """Summaries by step, each with its cost over that of the first."""
    series: dict[str, Series] = interleave({str(k): run for k, run in contenders.items()}, rounds, subject.device)
    first = next(iter(series.values()))
    return {name: {**one.summary(), "over_first": one.ratio(first)} for name, one in series.items()}
