"""Tables and plots from the cells: mean ± spread over the seeds, paired differences, the paper's sign beside ours."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from instformer_ros.ablation.running import CLASSIFIERS, Cell, cell_file, read_cell, timing_file
from instformer_ros.ablation.systems import Table
from instformer_ros.structures import InstformerError

Cells = list[dict[int, Cell]]  # of each row: seed -> numbers


def read_cells(table: Table, seeds: Iterable[int], folder: Path) -> Cells:
    """The cells of each row that are there."""
    found: Cells = []
    for row in table.rows:
        files = {seed: cell_file(folder, row.system, seed) for seed in seeds}
        found.append({seed: read_cell(file) for seed, file in files.items() if file.exists()})
    return found


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of the values that are numbers; NaN where there are too few."""
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return mean, statistics.stdev(known) if len(known) > 1 else math.nan


def paired(first: dict[int, Cell], second: dict[int, Cell], key: str) -> list[float]:
    """Second less first, for each seed that both have."""
    return [second[seed][key] - first[seed][key] for seed in sorted(first.keys() & second.keys())]


def format_rows(table: Table, cells: Cells) -> str:
    """The rows as markdown, in per cent. A row without cells says so."""
    lines = [f"| row | paper | {' | '.join(table.columns)} | seeds |", "|---" * (len(table.columns) + 3) + "|"]
    for row, found in zip(table.rows, cells, strict=True):
        paper = "" if row.paper is None else f"{row.paper:g}"
        numbers = [_percent(*mean_and_spread([c[key] for c in found.values()])) for key in table.columns]
        lines.append(f"| {row.label} | {paper} | {' | '.join(numbers)} | {len(found)} |")
    return "\n".join(lines)


def format_differences(table: Table, cells: Cells) -> str:
    """Paired differences as markdown, in points of a per cent, with the verdict on the first score's sign."""
    heads = " | ".join(f"Δ {key}" for key in table.judged)
    lines = [f"| compared | paper Δ | {heads} | sign as the paper's | outside the spread |"]
    lines.append("|---" * (len(table.judged) + 4) + "|")
    for a, b in table.compared:
        before, after = table.rows[a], table.rows[b]
        known = before.paper is not None and after.paper is not None
        theirs = after.paper - before.paper if known else math.nan  # type: ignore[operator]
        changes = [mean_and_spread(paired(cells[a], cells[b], key)) for key in table.judged]
        mean, spread = changes[0]
        agrees = "" if not known or math.isnan(mean) else "yes" if mean * theirs > 0 else "**no**" if mean else "equal"
        outside = "" if math.isnan(spread) else "yes" if abs(mean) > spread else "no"
        numbers = " | ".join(_percent(m, s, "+") for m, s in changes)
        paper = f"{theirs:+.2g}" if known else ""
        lines.append(f"| {before.label} → {after.label} | {paper} | {numbers} | {agrees} | {outside} |")
    return "\n".join(lines)


def format_timing(seeds: Iterable[int], folder: Path) -> str:
    """Time to name all proposals of a frame, by classifier, and the ratio to InstCLIP's; empty if never measured."""
    files = [timing_file(folder, seed) for seed in seeds]
    cells = [read_cell(file) for file in files if file.exists()]
    if not cells:
        return ""
    lines = ["| classifier | ms a frame | times InstCLIP's |", "|---|---|---|"]
    for kind in CLASSIFIERS:
        seconds, _ = mean_and_spread([cell[kind] for cell in cells])
        ratio, spread = mean_and_spread([cell[kind] / cell["instclip"] for cell in cells])
        lines.append(f"| {kind} | {1000 * seconds:.0f} | {ratio:.1f} ± {spread:.1f} |")
    return "\n".join(lines)


def format_table(table: Table, seeds: Sequence[int], folder: Path) -> str:
    """All that is known of one table, as markdown."""
    cells = read_cells(table, seeds, folder)
    parts = [format_rows(table, cells), format_differences(table, cells)]
    if table.number == 5 and (timing := format_timing(seeds, folder)):
        parts.append(timing)
    return "\n\n".join(parts)


def fill(path: Path, blocks: dict[int, str]) -> None:
    """Puts each table between its markers in ``path``, whose other text stays; a new file gets headings and markers.

    Raises:
        InstformerError: the file has no place for a table, or cannot be written.
    """
    try:
        if path.exists():
            text = path.read_text(encoding="utf-8")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "# Ablations on ToyVIS\n" + "".join(f"\n## Table {n}\n\n{_marked(n, '')}\n" for n in blocks)
        for number, block in blocks.items():
            pattern = re.compile(rf"<!-- table {number} -->.*?<!-- end -->", re.DOTALL)
            if not pattern.search(text):
                raise InstformerError(
                    f"{path} has no '<!-- table {number} --> <!-- end -->'; add it or name a new file"
                )
            text = pattern.sub(lambda _, n=number, b=block: _marked(n, b), text)  # type: ignore[misc]
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InstformerError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _marked(number: int, block: str) -> str:
    return f"<!-- table {number} -->\n{block}\n<!-- end -->"


def plot(table: Table, seeds: Sequence[int], folder: Path, path: Path) -> None:
    """The table's judged scores: a dot for each seed, a bar at the mean.

    Raises:
        InstformerError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InstformerError("plots need matplotlib; run 'pip install matplotlib'") from error
    cells = read_cells(table, seeds, folder)
    figure = Figure(figsize=(3 * len(table.judged) + 2, 0.32 * len(cells) + 0.9), layout="constrained")
    panels = figure.subplots(1, len(table.judged), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, table.judged, strict=True):
        for y, found in enumerate(cells):
            values = [100 * cell[key] for cell in found.values()]
            axes.plot(values, [y] * len(values), "o", color="C0", alpha=0.6)
            axes.plot([mean_and_spread(values)[0]], [y], "|", color="black", markersize=14, markeredgewidth=2)
        axes.set(title=f"{key} (%)", yticks=range(len(cells)), yticklabels=[row.label for row in table.rows])
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def _percent(mean: float, spread: float, sign: str = "") -> str:
    if math.isnan(mean):
        return "–"
    return f"{100 * mean:{sign}.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")
