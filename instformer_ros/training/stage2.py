"""Stage 2: the rollout tracker alone, on tokens extracted once (paper Sec. 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.model.guidance import MASK_STRIDE
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.training.loop import Losses
from instformer_ros.training.losses import temporal_contrastive_loss

FIRST_SEED = 1_000_000  # of the training videos; evaluation seeds lie far below
CLIP_FRAMES, CLIP_REACH = 5, 20  # frames of a clip, in order, within +-20 of its middle
_LEAST_OVERLAP = 0.5  # IoU under which a proposal is no sighting of an object
_CHUNK = 12  # frames a pass


@dataclass
class VideoTokens:
    """What a frozen model sees in one video."""

    tokens: Tensor  # (T, N, W) tracking tokens
    targets: Tensor  # (T, K) int64: the query that matches each object; -1 where none does


@torch.inference_mode()
def extract(
    model: InstFormer, videos: int, seed: int, classes: Sequence[str], device: torch.device
) -> list[VideoTokens]:
    """Runs the frozen model over ``videos`` generated videos."""
    model.eval()
    extracted = []
    for index in tqdm(range(videos), desc="tokens", unit="video", dynamic_ncols=True):
        video = ToyVideo(FIRST_SEED + 10_000 * seed + index, classes)
        images, masks = zip(*video, strict=True)
        tokens, targets = [], []
        for start in range(0, len(images), _CHUNK):
            batch = torch.from_numpy(np.stack(images[start : start + _CHUNK])).to(device).permute(0, 3, 1, 2).float()
            seen = model(batch)
            tokens.append(model.rollout.tokens(seen.proposals.queries, seen.tokens).cpu())
            for i, truth in enumerate(masks[start : start + _CHUNK]):
                targets.append(_match(seen.proposals.mask_logits[i], seen.proposals.objectness[i], truth))
        extracted.append(VideoTokens(torch.cat(tokens), torch.from_numpy(np.stack(targets))))
    return extracted


def _match(logits: Tensor, objectness: Tensor, truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K,) the query of each object, one to one, by mask IoU (and objectness between equals); -1 = not seen."""
    wanted = F.avg_pool2d(torch.from_numpy(truth.astype(np.float32)), MASK_STRIDE).flatten(1) > 0.5
    found = (logits > 0).flatten(1).cpu()
    common = wanted.float() @ found.float().t()
    union = wanted.sum(1)[:, None] + found.sum(1)[None] - common
    overlap = (common / union.clamp(min=1)).numpy()
    targets = np.full(len(truth), -1, np.int64)
    for k, n in zip(*linear_sum_assignment(overlap + 0.1 * objectness.cpu().numpy(), maximize=True), strict=True):
        if overlap[k, n] >= _LEAST_OVERLAP:
            targets[k] = n
    return targets


class ClipBatches:
    """Clips by step number: five frames in order from one video each."""

    def __init__(self, videos: Sequence[VideoTokens], batch: int, seed: int) -> None:
        self._videos, self._batch, self._seed = videos, batch, seed

    def __call__(self, step: int) -> list[VideoTokens]:
        rng = np.random.default_rng([self._seed, 3, step])
        clips = []
        for _ in range(self._batch):
            video = self._videos[int(rng.integers(len(self._videos)))]
            length = len(video.tokens)
            middle = int(rng.integers(length))
            window = np.arange(max(0, middle - CLIP_REACH), min(length, middle + CLIP_REACH + 1))
            frames = torch.from_numpy(np.sort(rng.choice(window, CLIP_FRAMES, replace=False)))
            clips.append(VideoTokens(video.tokens[frames], video.targets[frames]))
        return clips


class RolloutStage(nn.Module):
    """L_TC over clips, teacher-forced; the state is held while an object is absent."""

    def __init__(self, rollout: RolloutTracker) -> None:
        super().__init__()
        self.rollout = rollout

    def forward(self, clips: Sequence[VideoTokens], step: int) -> Losses:
        """Mean loss and accuracy over all objects and frames that can be predicted."""
        device = next(self.rollout.parameters()).device
        loss = torch.zeros((), device=device)
        right = count = 0
        for clip in clips:
            tokens, targets = clip.tokens.to(device), clip.targets.to(device)
            state = self.rollout.initial_state(targets.shape[1])
            predicted = torch.zeros_like(state)
            started = torch.zeros(targets.shape[1], dtype=torch.bool, device=device)
            for frame, target in zip(tokens, targets, strict=True):
                asked = started & (target >= 0)
                loss = loss + temporal_contrastive_loss(predicted, frame, target.where(asked, -1))
                count += int(asked.sum())
                similarity = F.normalize(predicted.detach(), dim=-1) @ F.normalize(frame, dim=-1).t()
                right += int(((similarity.argmax(1) == target) & asked).sum())
                seen = target >= 0
                rolled, kept = self.rollout(frame[target.clamp(min=0)], state)
                predicted = torch.where(seen[:, None], rolled, predicted)
                state = torch.where(seen[:, None], kept, state)
                started = started | seen
        return {"loss": loss / max(1, count), "accuracy": torch.tensor(right / max(1, count))}
