"""Scores of a model in training, on videos that neither training nor evaluation sees."""

from __future__ import annotations

import copy
import importlib.util

import torch

from instformer_ros.engine import Engine
from instformer_ros.evaluation.toyvis import score_runs
from instformer_ros.evaluation.toyvis_run import run_videos
from instformer_ros.model.instformer import InstFormer
from instformer_ros.structures import InstformerError

VALIDATION_SEED = 98  # evaluation seed that no score of the model card is measured on
_SHOWN = ("AP", "AP50", "AR10_agnostic", "IDF1", "true_mask_accuracy", "true_mask_IDF1")


def check_evaluation() -> None:
    """Raises InstformerError: trackeval, an extra, is not installed."""
    if importlib.util.find_spec("trackeval") is None:
        raise InstformerError("--evaluate-every: HOTA and IDF1 need trackeval; pip install trackeval, or use 0")


def toyvis_scores(model: InstFormer, device: torch.device, videos: int) -> dict[str, float]:
    """The benchmark's main scores over all classes, in [0, 1], life cycle ``managed``. The model stays as it is."""
    engine = Engine(copy.deepcopy(model), device)
    scores = score_runs(run_videos(engine, VALIDATION_SEED, videos, life_cycle="managed"), ["all"])["all"]
    return {key: float(scores[key]) for key in _SHOWN}
