"""``instformer bench``: how fast a model is here, where the time goes, and against what else a user could run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from instformer_ros.arguments import positive
from instformer_ros.variant_options import add_variant_options, describe, variant_of

PEERS = ("eager", "compiled", "transformers", "transformers-compiled", "crops")
SWEEPS = ("instances", "words", "cameras", "sizes")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options; nothing heavy is imported."""
    parser.description = (
        "Times whole frames and every stage; against peers and over sweeps, in turns. A preset has random weights."
    )
    parser.add_argument(
        "--model", default="toyvis", help="embedded name, checkpoint or preset, e.g. r50-vitb32 (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16 (default: %(default)s)")
    parser.add_argument(
        "--size", default="640x480", type=_size, metavar="WxH", help="of the pictures (default: 640x480)"
    )
    parser.add_argument("--rounds", default=20, type=positive, metavar="N", help="of everything (default: %(default)s)")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of torch on the CPU (default: torch's own choice)"
    )
    parser.add_argument("--against", nargs="+", default=[], choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--sweep", nargs="+", default=[], choices=SWEEPS, metavar="WHAT", help=", ".join(SWEEPS))
    parser.add_argument(
        "--short", type=positive, metavar="PIXELS", help="short side that the network sees (default: model's)"
    )
    parser.add_argument("--only", action="store_true", help="only --against and --sweep, no frames and stages")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the sweeps here (png, svg)")
    add_variant_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, prints and writes.

    Raises:
        InstformerError: model, device or precision is of no use.
    """
    import cv2
    import torch

    from instformer_ros.devices import find_device
    from instformer_ros.evaluation.results import check_writable
    from instformer_ros.speed import subjects
    from instformer_ros.speed.peers import compare
    from instformer_ros.speed.plots import draw_sweeps
    from instformer_ros.speed.sweeps import SWEEPS as sweep_of
    from instformer_ros.speed.timing import environment
    from instformer_ros.structures import InstformerError

    if options.plot and not options.sweep:
        raise InstformerError("--plot draws sweeps; name some with --sweep")
    for path in (options.json, options.plot):  # before the long run
        check_writable(path)
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    device = find_device(options.device)
    subject = subjects.load(options.model, device, options.precision, options.short, variant_of(options))
    width, height = options.size
    result: dict[str, Any] = {
        "environment": environment(device),
        "model": subject.config.name,
        "variant": describe(options),
        "precision": options.precision,
        "size": f"{width}x{height}",
    }
    print(_heading(result))
    if not options.only:
        result |= measure_frames(subject, options.size, options.rounds)
    for peer in options.against:
        picture = subjects.frames(width, height, 1)[0]
        try:
            comparison = compare(subject, peer, picture, options.rounds)
            print(f"\nagainst {peer}\n" + format_comparison(comparison), flush=True)
        except InstformerError as error:  # it is not installed, say: the rest is measured all the same
            comparison = {"not_measured": str(error)}
            print(f"\nagainst {peer}: not measured: {error}", flush=True)
        result.setdefault("against", {})[peer] = comparison
    for name in options.sweep:
        result.setdefault("sweeps", {})[name] = sweep_of[name](subject, options.size, options.rounds)
        print(f"\n{name}\n" + format_sweep(result["sweeps"][name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        draw_sweeps(result["sweeps"], options.plot)
    return 0


def measure_frames(subject: Any, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Whole frames, memory and stages; printed as they come."""
    from instformer_ros.devices import peak_memory
    from instformer_ros.speed.ceiling import against_ceilings
    from instformer_ros.speed.stages import time_stages
    from instformer_ros.speed.subjects import frames
    from instformer_ros.speed.sweeps import player
    from instformer_ros.speed.timing import interleave

    pictures = frames(*size)
    contenders = {"frame": player(subject.engine(), [{"camera": picture} for picture in pictures])}
    if subject.device.type == "cuda":
        plain = player(subject.engine(graphs=False), [{"camera": picture} for picture in pictures])
        contenders["frame without graphs"] = plain
    series = interleave(contenders, rounds, subject.device, warm_up=4)
    frame = {name: one.summary() for name, one in series.items()}
    memory = peak_memory(subject.device)
    for name, summary in frame.items():
        print(f"{name}: {_row(summary)}, {summary['per_second']:.1f} a second")
    print(f"peak memory: {memory / 2**20:.0f} MiB")
    stages = time_stages(subject, pictures, rounds)
    ceilings = against_ceilings(subject, pictures[0], stages)
    print(format_stages(stages, ceilings), flush=True)
    return {"frames": frame, "peak_memory_bytes": memory, "stages": stages, "ceilings": ceilings}


def format_stages(stages: dict[str, dict[str, float]], ceilings: dict[str, Any]) -> str:
    """One line a stage; then the ceilings, and how near the largest stages of the network come to them."""
    lines = [f"{'stage':<16}{'median ms':>10}{'p99 ms':>10}"]
    lines += [f"{name:<16}{one['median_ms']:>10.2f}{one['p99_ms']:>10.2f}" for name, one in stages.items()]
    rate, bandwidth = ceilings["matrix_rate_flop_per_second"], ceilings["bandwidth_byte_per_second"]
    lines += [
        f"ceilings: {rate / 1e9:.0f} GFLOP/s in a matrix product, {bandwidth / 1e9:.1f} GB/s of memory",
        f"{'largest':<16}{'GFLOP':>10}{'GB':>10}{'of matrix rate':>16}{'of bandwidth':>14}",
    ]
    for name in ceilings["largest_stages"]:
        one = stages[name]
        shares = f"{one['share_of_matrix_rate']:>16.0%}{one['share_of_bandwidth']:>14.0%}"
        lines.append(f"{name:<16}{one['gflop']:>10.2f}{one['gbyte']:>10.3f}{shares}")
    return "\n".join(lines)


def format_comparison(comparison: dict[str, Any]) -> str:
    """Ours, theirs and the ratio, by both clocks."""
    ratio = comparison["ratio"]
    return "\n".join(
        [
            f"  ours    {_row(comparison['ours'])}",
            f"  theirs  {_row(comparison['theirs'])}",
            *(
                f"  ours / theirs, {label}: {ratio[clock]:.3f} (quartiles {ratio[f'{clock}_q25']:.3f} to "
                f"{ratio[f'{clock}_q75']:.3f}, {comparison['ours']['runs']} rounds)"
                for clock, label in (("wall", "wall clock"), ("cpu", "processor time"))
            ),
        ]
    )


def format_sweep(sweep: dict[str, Any]) -> str:
    """One line a step."""
    return "\n".join(
        f"  {step:>10}  {_row(one)}  x {one['over_first']['wall']:.2f} wall, x {one['over_first']['cpu']:.2f} processor"
        for step, one in sweep.items()
    )


def _heading(result: dict[str, Any]) -> str:
    where = result["environment"]
    processor = where["gpu"] or f"{where['cpu']}, {where['threads']} of {where['cores']} cores"
    return (
        f"{result['model']} at {result['size']}, precision {result['precision']}, on {processor}; "
        f"load {where['load']}, torch {where['torch']}, commit {where['commit']}"
    )


def _row(summary: dict[str, float]) -> str:
    wall, cpu = (f"{summary[f'{clock}median_ms']:.1f} ms" for clock in ("", "cpu_"))
    return f"median {wall}, p99 {summary['p99_ms']:.1f} ms, processor {cpu}"


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(number) for number in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if not (32 <= width <= 16384 and 32 <= height <= 16384):
        raise argparse.ArgumentTypeError(f"'{text}': use WIDTHxHEIGHT in pixels, e.g. 640x480")
    return width, height
