"""Runs the systems seed by seed. A cell, one system on one seed, is one JSON file; those that are there are kept."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import torch

from instformer_ros.ablation import learning
from instformer_ros.ablation.following import associate, follow, is_installed, score
from instformer_ros.ablation.learning import Budget
from instformer_ros.ablation.seeing import SeenVideo, see, tokens_of
from instformer_ros.ablation.systems import Adapters, Row, System, Table
from instformer_ros.data.toyvis import ALL_NAMES
from instformer_ros.evaluation.results import write_json
from instformer_ros.evaluation.toyvis_run import settings, video_seeds
from instformer_ros.model.config import Association, Classifier, Rollout, RolloutConfig
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.model.variants import Variant, vary
from instformer_ros.model.vocabulary import TextEncoder
from instformer_ros.structures import InstformerError

CLASSIFIERS: tuple[Classifier, ...] = get_args(Classifier)
_TIMED_FRAMES = 3
_MARGIN = System().margin

Cell = dict[str, float]


def claim(folder: Path, budget: Budget, model: str) -> None:
    """Notes what ``folder`` holds, or checks that it is the same.

    Raises:
        InstformerError: it holds cells of another budget or model.
    """
    file, wanted = folder / "budget.json", {"model": model, **budget.to_dict()}
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_json(file, wanted)
    elif json.loads(file.read_text()) != wanted:
        raise InstformerError(f"{folder} holds cells of another budget or model; give another --output")


def systems_of(tables: Iterable[Table]) -> list[System]:
    """All systems of ``tables``, each once; those that share proposals lie together."""
    rows: list[Row] = [row for table in tables for row in table.rows]
    systems = dict.fromkeys(row.system for row in rows)
    return sorted(systems, key=lambda system: (system.margin != _MARGIN, system.margin))


def cell_file(folder: Path, system: System, seed: int) -> Path:
    """Where the numbers of a cell are."""
    return folder / f"seed{seed}" / f"{system.name}.json"


def timing_file(folder: Path, seed: int) -> Path:
    """Where the times of the classifiers are."""
    return folder / f"seed{seed}" / "timing.json"


def read_cell(path: Path) -> Cell:
    """A cell's numbers; NaN where a number is undefined."""
    return {key: float("nan") if value is None else value for key, value in json.loads(path.read_text()).items()}


class Seed:
    """All that the systems of one seed share, made when first asked for."""

    def __init__(self, model: InstFormer, seed: int, budget: Budget, folder: Path) -> None:
        self.model, self.seed, self.budget = model, seed, budget
        self.folder = folder / f"seed{seed}"
        self._device = model.instclip.pixel_mean.device
        self._settings = settings("managed")[0]
        self._texts = TextEncoder(model.instclip, model.config.clip)(ALL_NAMES).clone()
        self.proposals = cache(self._proposals)
        self._lessons = cache(self._match)
        self._classifier = cache(self._make_classifier)
        self._rollout = cache(self._make_rollout)
        self._seen: dict[float, list[SeenVideo]] = {}
        self._tokens: dict[tuple[float, str, str, int], list[Any]] = {}

    def run(self, system: System) -> Cell:
        """Trains what the system needs, follows, names and scores."""
        every = self.budget.named_every
        dense = system.association == "query+token"
        videos = self._see(system.margin)
        tokens = self._tokens_of(system, 1 if dense else every)
        rollout = self._rollout(system.rollout, system.association, system.mask_duplicates)
        scale = self.model.instclip.clip.logit_scale
        runs = []
        with torch.inference_mode():
            for n, (video, token) in enumerate(zip(videos, tokens, strict=True), 1):
                by = associate(system.follower, rollout, self._settings)
                runs.append(follow(video, n, token, by, self._texts, scale, every))
        return {**score(runs), "frame_AR": statistics.fmean(video.recall for video in videos)}

    def time_classifiers(self) -> Cell:
        """Median seconds to name all N proposals of a frame, by each classifier, interleaved frame by frame."""
        video = self._see(_MARGIN)[0]
        seconds: dict[str, list[float]] = {kind: [] for kind in CLASSIFIERS}
        with torch.inference_mode():
            for t in range(_TIMED_FRAMES + 1):
                image = video.images[t : t + 1].float()
                logits = self.proposals(_MARGIN)(image).mask_logits
                for kind in CLASSIFIERS:
                    classifier = self._classifier(kind, None)
                    start = time.perf_counter()
                    classifier(image, logits)
                    if self._device.type == "cuda":
                        torch.cuda.synchronize()
                    seconds[kind].append(time.perf_counter() - start)
        return {kind: statistics.median(values[1:]) for kind, values in seconds.items()}  # the first warms up

    def _proposals(self, margin: float) -> ProposalNetwork:
        return learning.train_proposals(self.model, margin, self.seed, self.budget, self.folder)

    def _match(self) -> list[Any]:
        return learning.match_base_frames(self.proposals(_MARGIN), self.seed, self.budget, self._device)

    def _make_classifier(self, kind: Classifier, adapters: Adapters | None) -> InstClip:
        if adapters is not None:
            return learning.train_adapters(self.model, adapters, self._lessons(), self.seed, self.budget, self.folder)
        varied = vary(self.model, Variant(classifier=kind))
        classifier = copy.deepcopy(varied.instclip)  # its own adapters stay apart, or CLIP would be frozen no more
        classifier.merge_lora()
        return classifier

    def _make_rollout(self, kind: Rollout, association: Association, mask_duplicates: bool) -> RolloutTracker:
        width = self.model.config.proposals.width
        if kind == "none":
            whole = width + self.model.instclip.embed_dim
            return RolloutTracker(RolloutConfig("none", association), width if association == "query" else whole)
        model = InstFormer(replace(self.model.config, rollout=RolloutConfig("none")))
        model.proposals, model.instclip = self.proposals(_MARGIN), self.model.instclip
        videos = learning.extract_tokens(model, self.seed, self.budget, self.folder)
        return learning.train_rollout(
            kind, association, mask_duplicates, videos, width, self.seed, self.budget, self.folder
        )

    def _see(self, margin: float) -> list[SeenVideo]:
        """The videos under one margin; beside the default's only the last one's are kept in memory."""
        if margin not in self._seen:
            kept = (_MARGIN, margin)
            self._seen = {m: videos for m, videos in self._seen.items() if m in kept}
            self._tokens = {key: tokens for key, tokens in self._tokens.items() if key[0] in kept}
            network, seeds = self.proposals(margin), video_seeds(self.seed, self.budget.videos)
            self._seen[margin] = [see(network, self.model.config, s, self._settings, self._device) for s in seeds]
        return self._seen[margin]

    def _tokens_of(self, system: System, every: int) -> list[Any]:
        adapters = system.adapters.name if system.adapters else "given"
        key = (system.margin, system.classifier, adapters, every)
        if key not in self._tokens:
            classifier = self._classifier(system.classifier, system.adapters)
            self._tokens[key] = [tokens_of(video, classifier, every) for video in self._see(system.margin)]
        return self._tokens[key]


def run_cells(
    model: InstFormer,
    tables: Iterable[Table],
    seeds: Iterable[int],
    budget: Budget,
    folder: Path,
    report: Callable[[str], object] = print,
) -> None:
    """Fills in the cells that are not there yet, table by table in the given order, and seed by seed.

    The adapters of ``model`` must not be merged.
    """
    tables, seeds = list(tables), list(seeds)
    for absent in {s.follower: None for s in systems_of(tables) if not is_installed(s.follower)}:
        report(f"{absent} is left out: it needs the library trackers; run 'pip install trackers'")
    shared = {seed: Seed(model, seed, budget, folder) for seed in seeds}
    for table, seed in itertools.product(tables, seeds):
        jobs: list[tuple[Path, str, Callable[[], Cell]]] = [
            (cell_file(folder, system, seed), system.name, partial(shared[seed].run, system))
            for system in systems_of([table])
            if is_installed(system.follower)
        ]
        if table.number == 5:
            jobs.append((timing_file(folder, seed), "timing", shared[seed].time_classifiers))
        for path, name, compute in jobs:
            if path.exists():
                continue
            start = time.monotonic()
            cell = compute()
            write_json(path, cell)
            report(f"seed {seed}  {name}  {time.monotonic() - start:.0f} s")
