"""``instformer ablate toyvis``: the paper's Tables 4-8, cell by cell; interrupted, the same command goes on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from instformer_ros.arguments import natural

if TYPE_CHECKING:
    from instformer_ros.ablation.learning import Budget
    from instformer_ros.model.instformer import InstFormer


def add_ablate_options(parser: argparse.ArgumentParser) -> None:
    """The options; only argparse is needed for them."""
    parser.description = (
        "Trains and scores the rows of the paper's Tables 4-8 on ToyVIS, from a trained checkpoint. A cell (one "
        "system, one seed) is a file; the same command goes on where it was. The defaults take hours on a CPU."
    )
    parser.add_argument("benchmark", choices=["toyvis"], help="the generated benchmark")
    parser.add_argument(
        "--tables", default="4,5,6,7,8", metavar="N,N", help="which, in this order (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), metavar="DIR", help="cells, progress")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="markdown whose tables are renewed, plots beside it in images/ (default: DIR/results.md)",
    )
    for name, what in (
        ("videos", "videos evaluated for each seed"),
        ("named-every", "only every so many frames are named"),
        ("proposal-steps", "training of the proposals, for each margin"),
        ("adapter-steps", "training of InstCLIP's adapters, for each kind"),
        ("rollout-videos", "videos whose tokens train the rollout trackers"),
        ("rollout-steps", "training of each rollout tracker"),
        ("batch", "frames a training step"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=what)
    parser.add_argument("--report-only", action="store_true", help="write tables and plots of the cells that are there")
    parser.add_argument("--model", default="toyvis", help="'toyvis' (embedded) or a checkpoint (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--threads", type=natural, default=0, metavar="N", help="CPU threads; 0 = all (default: %(default)s)"
    )
    parser.set_defaults(run=ablate)


def ablate(options: argparse.Namespace) -> int:
    """Runs what is missing, then writes tables and plots.

    Raises:
        InstformerError: bad numbers, no such model, device or table, or the folder holds another budget's cells.
    """
    from instformer_ros.ablation.report import fill, format_table, plot
    from instformer_ros.ablation.running import claim, run_cells
    from instformer_ros.ablation.systems import TABLES

    tables = [TABLES[number] for number in _numbers(options.tables, tuple(TABLES))]
    seeds = range(1, _at_least_one("seeds", options.seeds) + 1)
    budget = _budget(options)
    claim(options.output, budget, str(options.model))
    if not options.report_only:
        run_cells(_load(options), tables, seeds, budget, options.output)
    results = options.results or options.output / "results.md"
    fill(results, {table.number: format_table(table, seeds, options.output) for table in tables})
    for table in tables:
        plot(table, seeds, options.output, results.parent / "images" / f"ablation_table{table.number}.png")
    print(f"tables: {results}")
    return 0


def _load(options: argparse.Namespace) -> InstFormer:
    import torch

    from instformer_ros.devices import find_device
    from instformer_ros.paths import find_model
    from instformer_ros.training.runtime import keep_memory
    from instformer_ros.weights import checkpoint

    keep_memory()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    return checkpoint.load(find_model(options.model)).to(find_device(options.device))


def _budget(options: argparse.Namespace) -> Budget:
    from dataclasses import fields

    from instformer_ros.ablation.learning import Budget

    given = {field.name: getattr(options, field.name) for field in fields(Budget)}
    return Budget(**{name: _at_least_one(name, value) for name, value in given.items() if value is not None})


def _at_least_one(name: str, value: int) -> int:
    from instformer_ros.structures import InstformerError

    if value < 1:
        raise InstformerError(f"{name} is {value}; use 1 or more")
    return value


def _numbers(text: str, known: tuple[int, ...]) -> list[int]:
    from instformer_ros.structures import InstformerError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not set(numbers) <= set(known):
        raise InstformerError(f"tables '{text}': use some of {', '.join(map(str, known))}")
    return list(dict.fromkeys(numbers))
