"""``instformer train toyvis``: its options. Imports nothing heavy before it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from instformer_ros.arguments import natural, positive


def add_train(parser: argparse.ArgumentParser) -> None:
    """Adds the options to the parser of ``instformer train``."""
    parser.description = (
        "Interrupted, the same command goes on where it was. Several GPUs: "
        "torchrun --nproc-per-node N -m instformer_ros.cli train ..."
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    toyvis = kinds.add_parser("toyvis", help="the embedded model, from nothing")
    toyvis.description = f"Trains the embedded model from nothing. {parser.description}"
    _add_common(toyvis, "runs/toyvis")
    toyvis.add_argument("--config", metavar="FILE", help="TOML file with numbers of the plan to change")
    toyvis.add_argument("--smoke", action="store_true", help="each stage's first steps alone, to see that it runs")
    toyvis.add_argument(
        "--validation", type=positive, default=8, metavar="M",
        help="generated videos for --evaluate-every (default: %(default)s)",
    )  # fmt: skip
    toyvis.set_defaults(run=_train_toyvis)


def _add_common(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path(output), metavar="DIR",
        help="folder of progress and result (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of weights and data (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--threads", type=natural, default=0, metavar="N", help="CPU threads; 0 = all (default: 0)")
    parser.add_argument(
        "--accumulate", type=positive, default=1, metavar="N",
        help="parts of a step that a process takes one after the other, to save memory (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=natural, default=1, metavar="N", help="processes that make batches ahead (default: 1)"
    )
    parser.add_argument(
        "--evaluate-every", type=natural, default=0, metavar="N",
        help="steps between scores on validation videos; 0 = never (default: 0)",
    )  # fmt: skip
    parser.add_argument("--tensorboard", action="store_true", help="log for TensorBoard as well, in DIR/tensorboard")


def _train_toyvis(options: argparse.Namespace) -> int:
    from instformer_ros.training.command import train_toyvis

    train_toyvis(options)
    return 0
