"""What frozen networks see in evaluation videos: proposals once for all rows that share them, then tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from instformer_ros import masks as mask_tools
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.evaluation.tracking import mask_iou
from instformer_ros.evaluation.video_ap import THRESHOLDS
from instformer_ros.model.config import ModelConfig
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.proposals import ProposalNetwork, rank_score
from instformer_ros.preprocess import network_input
from instformer_ros.settings import Settings
from instformer_ros.structures import Proposals, Rle
from instformer_ros.tracking.duplicates import drop_duplicates, overlaps

_CHUNK = 12  # frames a pass


@dataclass
class SeenFrame:
    """The proposals of one frame that a managed track may take: K of the network's N."""

    rows: Tensor  # (K,) int64, which queries they are
    queries: Tensor  # (K, C)
    objectness: NDArray[np.float32]  # (K,) rank score
    logits: Tensor  # (K, h, w)
    masks: list[Rle]  # K, full image size
    boxes: NDArray[np.float32]  # (K, 4) x0, y0, x1, y1 in pixels


@dataclass
class SeenVideo:
    """One video: truth, input and proposals."""

    video: ToyVideo
    images: Tensor  # (T, 3, H, W) uint8, RGB, at the network's size
    truth: list[list[Rle | None]]  # [frame][object]; None where it cannot be seen
    frames: list[SeenFrame]
    recall: float  # of all N proposals, frame by frame: mean over the IoU thresholds .50:.05:.95


@torch.inference_mode()
def see(
    proposals: ProposalNetwork, config: ModelConfig, seed: int, settings: Settings, device: torch.device
) -> SeenVideo:
    """Runs the proposal network over the video of ``seed``; thresholds as the engine has them."""
    video = ToyVideo(seed)
    pictures, masks = zip(*video, strict=True)
    images = torch.cat([network_input([picture], config, device) for picture in pictures])
    truth = [[mask_tools.encode(m) if m.any() else None for m in frame] for frame in masks]
    size = (video.height, video.width)
    frames: list[SeenFrame] = []
    found = []
    for start in range(0, len(images), _CHUNK):
        seen = proposals(images[start : start + _CHUNK])
        scores = rank_score(seen)
        for i in range(len(scores)):
            everything = mask_tools.encode_many(_full(seen.mask_logits[i], size))
            objects = [rle for rle in truth[start + i] if rle is not None]
            if objects:
                found.append(mask_iou(objects, everything).max(1))
            frames.append(_candidates(seen, i, scores[i], everything, settings))
    best = np.concatenate(found)
    return SeenVideo(video, images.byte(), truth, frames, float((best[:, None] >= np.array(THRESHOLDS)).mean()))


def _candidates(seen: Proposals, i: int, scores: Tensor, masks: list[Rle], settings: Settings) -> SeenFrame:
    """The proposals of image ``i`` that are no duplicates and sure enough to continue a track."""
    objectness = scores.float().cpu().numpy()
    if settings.duplicate_threshold < 1:
        shapes = seen.mask_logits[i] > 0
        objectness = drop_duplicates(objectness, overlaps(shapes, shapes).cpu().numpy(), settings.duplicate_threshold)
    chosen = np.flatnonzero(objectness >= settings.keep_threshold)
    rows, kept = torch.from_numpy(chosen).to(scores.device), [masks[row] for row in chosen]
    boxes = np.array([mask_tools.box(rle) for rle in kept], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return SeenFrame(rows, seen.queries[i, rows], objectness[chosen], seen.mask_logits[i, rows], kept, boxes)


def _full(logits: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    full = F.interpolate(logits[None].float(), size, mode="bilinear", align_corners=False)[0]
    return (full > 0).cpu().numpy()


@torch.inference_mode()
def tokens_of(seen: SeenVideo, instclip: InstClip, every: int = 1) -> list[Tensor | None]:
    """Instance tokens (K, E) of every ``every``-th frame; None for the frames between.

    Only the candidates' are computed: an instance token depends on no other instance.
    """
    tokens: list[Tensor | None] = []
    for t, frame in enumerate(seen.frames):
        if t % every:
            tokens.append(None)
        else:
            tokens.append(instclip(seen.images[t : t + 1].float(), frame.logits[None], frame.rows[None])[0])
    return tokens
