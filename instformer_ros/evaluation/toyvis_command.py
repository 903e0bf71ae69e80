"""The work of ``instformer evaluate toyvis``: loads the engine, runs the benchmark, writes the file."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from instformer_ros.data.toyvis import SPLITS, ToyVideo
from instformer_ros.engine import Engine
from instformer_ros.evaluation.results import check_writable, write_json
from instformer_ros.evaluation.toyvis import evaluate, format_table
from instformer_ros.evaluation.toyvis_run import video_seeds
from instformer_ros.variant_options import describe, variant_of


def evaluate_toyvis(options: argparse.Namespace) -> str:
    """Evaluates as the command line says; returns a table for people.

    Raises:
        InstformerError: no such model or device, bad numbers, or the file cannot be written.
    """
    seeds = list(dict.fromkeys(options.seed))
    for seed in seeds:
        video_seeds(seed, options.videos)
    check_writable(options.json)  # before the long run
    splits = (*SPLITS, "all") if options.split == "all" else (options.split,)
    how = {"untrained": options.untrained, "variant": variant_of(options), "precision": options.precision}
    engine = Engine.load(options.model, options.device, **how)
    try:
        frames = len(seeds) * options.videos * ToyVideo(0).length
        with tqdm(total=frames, desc="evaluating ToyVIS", unit="frame") as bar:
            report = evaluate(engine, seeds, options.videos, splits, options.parallel, options.life_cycle, bar.update)
    finally:
        engine.close()
    report["model"] = "untrained" if options.untrained else options.model
    report["life_cycle"] = options.life_cycle
    report["variant"] = describe(options)
    if options.json is not None:
        write_json(options.json, report)
    return format_table(report)
