"""Draws the logs of a training run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path


def can_plot() -> bool:
    """Is matplotlib, an extra, installed?"""
    return importlib.util.find_spec("matplotlib") is not None


def plot_curves(folder: Path, stages: Sequence[str]) -> Path:
    """``curves.png``: a panel a stage, its losses against its steps, accuracies on the right-hand axis."""
    from matplotlib.figure import Figure  # late: an extra

    figure = Figure(figsize=(30 / 7 * len(stages), 4), layout="constrained")
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    for axes, stage in zip(panels, stages, strict=True):
        file = folder / f"{stage}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        right = axes.twinx()
        for key in dict.fromkeys(key for row in rows for key in row if key not in ("step", "seconds")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            target, style = (right, ":") if key == "accuracy" else (axes, "-")
            target.plot(*zip(*points, strict=True), style, label=key, color="black" if key == "accuracy" else None)
        axes.set(title=stage, xlabel="step", ylabel="loss")
        axes.set_yscale("log")
        right.set(ylabel="accuracy", ylim=(0, 1))
        axes.legend(loc="lower left", fontsize="small")
    path = folder / "curves.png"
    figure.savefig(path, dpi=100)
    return path
