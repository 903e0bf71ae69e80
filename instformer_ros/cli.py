"""The command line: ``instformer segment | evaluate | ablate | train | bench | weights``.

Only argparse is imported here, so that ``--help`` answers at once; the work lies elsewhere.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from instformer_ros.ablation.command import add_ablate_options
from instformer_ros.arguments import natural, positive
from instformer_ros.commands.train import add_train
from instformer_ros.evaluation.benchmark_options import add_benchmark_options
from instformer_ros.memory import keep_freed_memory
from instformer_ros.speed.command import add_bench
from instformer_ros.variant_options import add_variant_options
from instformer_ros.weights.command import add_weights

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
READER_LEFT = 141  # 128 + SIGPIPE


class _Parser(argparse.ArgumentParser):
    """Errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"instformer: error: {message} (try '{self.prog} --help')\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 2 for bad input, 130 after Ctrl-C, 141 if ``| head`` left."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # at exit a broken pipe could not be caught any more
    except BrokenPipeError:
        _drop_output()
        return READER_LEFT
    except KeyboardInterrupt:
        print("instformer: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from instformer_ros.structures import InstformerError

        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # wherever it is met, nobody here can mend it
            _drop_output()
            where = f" of '{error.filename}'" if error.filename else ""
            error = InstformerError(f"the disk{where} is full; make room and start again")
        elif _is_out_of_memory(error):
            error = InstformerError(
                "memory does not suffice: end other programs, or do less at once (train: --accumulate)"
            )
        elif isinstance(error, OSError) and error.filename is not None and error.strerror:  # not ours: permissions, say
            error = InstformerError(f"'{error.filename}': {error.strerror}; check the path and its permissions")
        if not isinstance(error, InstformerError):
            raise
        print(f"instformer: error: {error}", file=sys.stderr)
        return BAD_INPUT


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:  # too slow to import for this alone
        return isinstance(error, MemoryError)
    from instformer_ros.devices import is_out_of_memory

    return is_out_of_memory(error)


def _drop_output() -> None:
    """What is left to print cannot be: Python would try it at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    keep_freed_memory()
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = f"{parser.prog} {options.command}"  # whose help lists what there is, unlike the parser's own
        parser.exit(BAD_INPUT, f"instformer: error: {command} takes no {' '.join(unknown)} (try '{command} --help')\n")
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="instformer", description="Open-vocabulary video instance segmentation (InstFormer).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_segment(commands.add_parser("segment", help="find, name and follow objects in a video"))
    _add_evaluate(commands.add_parser("evaluate", help="score a model on a benchmark"))
    add_ablate_options(commands.add_parser("ablate", help="reproduce the paper's ablations"))
    add_train(commands.add_parser("train", help="train a model"))
    add_bench(commands.add_parser("bench", help="how fast a model is here, and against what else there is"))
    add_weights(commands.add_parser("weights", help="make and look at checkpoints"))
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="toyvis", help="'toyvis' (embedded) or a checkpoint (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="auto (bf16 on GPUs that have it, else fp32), fp32, bf16 or fp16 (default: %(default)s)",
    )


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.description = "Writes tracks.json (YouTube-VIS results), overlay.mp4 and summary.json."
    parser.add_argument("source", help="video file, folder of pictures, rosbag2, toyvis:SEED or webcam:N")
    parser.add_argument(
        "--vocabulary", required=True, metavar='"a, b, c"', help="comma separated words; empty = class-agnostic"
    )
    parser.add_argument(
        "--vocabulary-embeddings",
        type=Path,
        metavar="FILE_OR_DIR",
        help="ready-made CLIP text embeddings (.npy) of the words; with an empty vocabulary: all of them",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--topic", default="", help="images of a bag; needed where it has several topics of images")
    parser.add_argument(
        "--output-bag", type=Path, metavar="FILE", help="write instances and overlay as an .mcap bag too"
    )
    parser.add_argument("--max-frames", type=positive, metavar="N", help="stop after so many frames")
    parser.add_argument("--score-threshold", type=float, metavar="X", help="least score that is published")
    _add_model(parser)
    parser.set_defaults(run=_segment)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    toyvis = benchmarks.add_parser("toyvis", help="the generated benchmark")
    toyvis.description = "AP, HOTA and IDF1 on generated videos that no training has seen, beside chance."
    toyvis.add_argument(
        "--split",
        default="all",
        choices=("base", "novel", "compositional", "all"),
        help="classes to score; all = each split, and all of them together (default: %(default)s)",
    )
    toyvis.add_argument(
        "--seed", type=natural, nargs="+", default=[1], metavar="N", help="one or more; each has its own videos"
    )
    toyvis.add_argument("--videos", type=positive, default=60, metavar="M", help="for each seed (default: %(default)s)")
    toyvis.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    toyvis.add_argument("--parallel", type=positive, default=1, metavar="N", help="videos in one network pass")
    toyvis.add_argument(
        "--life-cycle", default="managed", choices=("slots", "managed"), help="of tracks (default: %(default)s)"
    )
    add_variant_options(toyvis)
    toyvis.add_argument("--untrained", action="store_true", help="random weights of the same size, for comparison")
    _add_model(toyvis)
    toyvis.set_defaults(run=_evaluate_toyvis)
    for parser in add_benchmark_options(benchmarks):
        _add_model(parser)


def _segment(options: argparse.Namespace) -> int:
    from instformer_ros.segment import SegmentOptions, format_summary, segment

    summary = segment(
        SegmentOptions(
            source=options.source,
            vocabulary=options.vocabulary,
            output=options.output,
            model=options.model,
            device=options.device,
            precision=options.precision,
            max_frames=options.max_frames,
            score_threshold=options.score_threshold,
            vocabulary_embeddings=options.vocabulary_embeddings,
            topic=options.topic,
            output_bag=options.output_bag,
        )
    )
    print(format_summary(summary))
    return 0


def _evaluate_toyvis(options: argparse.Namespace) -> int:
    from instformer_ros.evaluation.toyvis_command import evaluate_toyvis

    print(evaluate_toyvis(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
