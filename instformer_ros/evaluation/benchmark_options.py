"""Options of ``instformer evaluate youtube-vis | lv-vis | uvo | burst``. Only argparse is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = {
    "youtube-vis": "YouTube-VIS 2019 and 2021: video AP and AR",
    "lv-vis": "LV-VIS: video AP and AR over base and novel classes",
    "uvo": "UVO dense: class-agnostic video AP and AR",
    "burst": "BURST: HOTA and track AP over common and uncommon classes",
}


def add_benchmark_options(benchmarks: Any) -> list[argparse.ArgumentParser]:
    """Adds the public benchmarks to the parsers of ``instformer evaluate``; returns theirs."""
    parsers = []
    for name, text in HELP.items():
        parser = benchmarks.add_parser(name, help=text)
        parser.description = f"{text}. Formats and protocols: docs/benchmarks.md."
        parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="the benchmark's json file")
        parser.add_argument("--images", type=Path, metavar="DIR", help="its folder of pictures, to run a model on")
        parser.add_argument("--predictions", type=Path, metavar="FILE", help="score this results file, without a model")
        parser.add_argument("--submission", type=Path, metavar="FILE", help="write results as the benchmark wants them")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
        parser.add_argument(
            "--life-cycle", default="slots", choices=("slots", "managed"), help="of tracks (default: %(default)s)"
        )
        parser.set_defaults(run=_run)
        parsers.append(parser)
    return parsers


def _run(options: argparse.Namespace) -> int:
    from instformer_ros.evaluation.benchmark_command import evaluate_benchmark

    return evaluate_benchmark(options)
