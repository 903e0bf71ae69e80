"""``instformer train toyvis | youtube-vis | lv-vis | coco``: its options. Imports nothing heavy before it runs."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from instformer_ros.arguments import natural, positive

DATASETS = {"youtube-vis": "YouTube-VIS 2019 or 2021", "lv-vis": "LV-VIS", "coco": "COCO, still images"}


class _Also(argparse.Action):
    """Checks KIND ANNOTATIONS IMAGES WEIGHT and appends them as (str, Path, Path, float)."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        kind, annotations, images, weight = values
        if kind not in DATASETS:
            raise argparse.ArgumentError(self, f"'{kind}': KIND is one of {', '.join(DATASETS)}")
        try:
            share = float(weight)
        except ValueError:
            share = math.nan
        if not 0 < share < math.inf:
            raise argparse.ArgumentError(self, f"'{weight}': WEIGHT is a number above 0")
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), (kind, Path(annotations), Path(images), share)))


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
    toyvis.add_argument(
        "--smoke", action="store_true", help="each stage's first steps alone, to see that it runs: some minutes"
    )
    toyvis.add_argument(
        "--validation", type=positive, default=8, metavar="M",
        help="generated videos for --evaluate-every (default: %(default)s)",
    )  # fmt: skip
    toyvis.set_defaults(run=_train_toyvis)
    for name, title in DATASETS.items():
        dataset = kinds.add_parser(name, help=title)
        dataset.description = f"Trains the paper's two stages on {title}. {parser.description}"
        _add_dataset(dataset, name)


def _add_dataset(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--model", required=True, metavar="FILE", help="checkpoint to start from, as imported")
    parser.add_argument("--annotations", required=True, type=Path, metavar="FILE", help="published annotations (JSON)")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--also", action=_Also, nargs=4, default=(), metavar=("KIND", "ANNOTATIONS", "IMAGES", "WEIGHT"),
        help="train on this data set as well; its clips are drawn WEIGHT times as often as the main set's; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--config", default="paper", metavar="NAME|FILE",
        help="recipe: 'paper', or a TOML file of the same keys (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=("1", "2", "both"), default="1" if name == "coco" else "both",
        help="what to train (default: %(default)s)",
    )  # fmt: skip
    _add_common(parser, f"runs/{name}")
    parser.add_argument("--validation-annotations", type=Path, metavar="FILE", help="for --evaluate-every")
    parser.add_argument("--validation-images", type=Path, metavar="DIR", help="for --evaluate-every")
    parser.add_argument(
        "--validation", type=positive, default=50, metavar="M",
        help="the first so many videos of them (default: %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=_train_dataset, dataset=name)


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


def _train_dataset(options: argparse.Namespace) -> int:
    from instformer_ros.training.command import train_dataset

    train_dataset(options)
    return 0
