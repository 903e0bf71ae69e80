"""The sweeps as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instformer_ros.structures import InstformerError

_TITLES = {
    "instances": "instances: one pass of InstCLIP",
    "words": "words in force: a frame",
    "cameras": "cameras: a frame of each",
    "sizes": "picture: a frame",
}


def draw_sweeps(sweeps: dict[str, Any], path: Path, clock: str = "cpu") -> None:
    """One panel a sweep: cost over that of the first step, median and quartiles.

    Raises:
        InstformerError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InstformerError("--plot needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(3.2 * len(sweeps), 2.8), layout="constrained")
    for axes, (name, steps) in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps.items(), strict=True):
        growth = [step["over_first"] for step in steps.values()]
        places = range(len(growth))
        axes.fill_between(places, [g[f"{clock}_q25"] for g in growth], [g[f"{clock}_q75"] for g in growth], alpha=0.3)
        axes.plot(places, [g[clock] for g in growth], marker="o", markersize=4)
        axes.set_xticks(places, list(steps), rotation=30 if name == "sizes" else 0, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_title(_TITLES[name], fontsize=9)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("cost / cost of the first")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
