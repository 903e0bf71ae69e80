"""Where a frame's time goes, from the bytes of a picture to the message."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from instformer_ros.pixels import to_rgb
from instformer_ros.speed.ceiling import network_stages
from instformer_ros.speed.subjects import Image, Subject
from instformer_ros.speed.timing import wait_for
from instformer_ros.structures import TrackedFrame

CAMERA = "camera"


def time_stages(subject: Subject, pictures: Sequence[Image], rounds: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of every stage in milliseconds, in the order of the frame's way.

    Without CUDA graphs, and with a wait before and after each stage of the network, so on a GPU the sum is more than a
    frame takes. Stages of the network have their processor time too. The message is left out where there is no ROS.
    """
    engine, device = subject.engine(graphs=False), subject.device
    laps: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    message = message_maker()
    for name, module in network_stages(engine.model).items():  # this engine's own: nobody need take the hooks off
        _watch(module, laps[name], cpu[name], device)
    for turn in range(-2, rounds):
        if turn == 0:
            for seconds in (*laps.values(), *cpu.values()):
                seconds.clear()
        raw = np.ascontiguousarray(pictures[turn % len(pictures)][..., ::-1])
        height, width = raw.shape[:2]
        start = time.perf_counter()
        picture = to_rgb("bgr8", height, width, 3 * width, False, raw.reshape(-1))
        laps["decode"].append(time.perf_counter() - start)
        frame = engine.step({CAMERA: picture})[CAMERA]
        for stage in ("preprocess", "association", "masks"):
            laps[stage].append(frame.timings[stage])
        if message is not None:
            start = time.perf_counter()
            message(frame)
            laps["message"].append(time.perf_counter() - start)
    order = ("decode", "preprocess", "backbone", "pixel decoder", "mask decoder", "instclip", "association", "masks")
    return {
        stage: {
            "median_ms": float(1e3 * np.median(laps[stage])),
            "p99_ms": float(1e3 * np.percentile(laps[stage], 99)),
            **({"cpu_median_ms": float(1e3 * np.median(cpu[stage]))} if stage in cpu else {}),
        }
        for stage in (*order, "message")
        if laps[stage]
    }


def message_maker() -> Callable[[TrackedFrame], bytes] | None:
    """What fills and serialises the message of a frame; None where there is no ROS."""
    try:
        from instformer_ros.ros.messages import serialised
    except ImportError:
        return None
    return serialised


def _watch(module: nn.Module, laps: list[float], cpu: list[float], device: torch.device) -> None:
    """Books the module's passes: seconds of the wall clock and of processor time."""
    start = (0.0, 0.0)

    def before(*_: Any) -> None:
        nonlocal start
        wait_for(device)
        start = time.perf_counter(), time.process_time()

    def after(*_: Any) -> None:
        wait_for(device)
        laps.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
