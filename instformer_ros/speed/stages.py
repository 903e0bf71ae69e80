"""Where a frame's time goes, from the bytes of a picture to the message."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from instformer_ros.model.precision import find_precision
from instformer_ros.pixels import to_rgb
from instformer_ros.preprocess import network_input
from instformer_ros.speed.ceiling import matrix_rate, operations
from instformer_ros.speed.subjects import Image, Subject
from instformer_ros.speed.timing import wait_for
from instformer_ros.structures import TrackedFrame

CAMERA = "camera"


def time_stages(subject: Subject, pictures: Sequence[Image], rounds: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of every stage in milliseconds, in the order of the frame's way.

    Stages of the network also have their operations, and the share that they reach of the device's matrix rate.

    Without CUDA graphs, and with a wait after each stage, so on a GPU the sum is more than a frame takes. The message
    is left out where there is no ROS.
    """
    engine = subject.engine(graphs=False)
    network, device = engine.model.proposals, subject.device
    laps: dict[str, list[float]] = defaultdict(list)
    message = message_maker()
    parts = {
        "backbone": network.backbone,
        "pixel decoder": network.pixel_decoder,
        "mask decoder": network.mask_decoder,
    }
    for name, module in parts.items():  # of this engine's own copy: nobody need take the hooks off
        _watch(module, name, laps, device)
    for turn in range(-2, rounds):
        if turn == 0:
            laps.clear()
        raw = np.ascontiguousarray(pictures[turn % len(pictures)][..., ::-1])
        height, width = raw.shape[:2]
        start = time.perf_counter()
        picture = to_rgb("bgr8", height, width, 3 * width, False, raw.reshape(-1))
        laps["decode"].append(time.perf_counter() - start)
        frame = engine.step({CAMERA: picture})[CAMERA]
        for stage in ("preprocess", "instclip", "association", "masks"):
            laps[stage].append(frame.timings[stage])
        if message is not None:
            start = time.perf_counter()
            message(frame)
            laps["message"].append(time.perf_counter() - start)
    order = ("decode", "preprocess", "backbone", "pixel decoder", "mask decoder", "instclip", "association", "masks")
    result = {
        stage: {
            "median_ms": float(1e3 * np.median(laps[stage])),
            "p99_ms": float(1e3 * np.percentile(laps[stage], 99)),
        }
        for stage in (*order, "message")
        if stage in laps
    }
    rate = matrix_rate(device, find_precision(subject.precision, device))
    images = network_input(pictures[:1], subject.config, device)
    for stage, count in operations(subject.copy().to(device), images).items():
        result[stage] |= {
            "gflop": count / 1e9,
            "share_of_matrix_rate": 1e3 * count / rate / result[stage]["median_ms"],
        }
    return result


def message_maker() -> Callable[[TrackedFrame], bytes] | None:
    """What fills and serialises the message of a frame; None where there is no ROS."""
    try:
        from instformer_ros.ros.messages import serialised
    except ImportError:
        return None
    return serialised


def _watch(module: nn.Module, name: str, laps: dict[str, list[float]], device: torch.device) -> None:
    """Books the module's passes under ``name``."""
    start = 0.0

    def before(*_: Any) -> None:
        nonlocal start
        wait_for(device)
        start = time.perf_counter()

    def after(*_: Any) -> None:
        wait_for(device)
        laps[name].append(time.perf_counter() - start)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
