"""Stage 2: the rollout tracker alone, on tokens extracted once (paper Sec. 5.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.training.loop import Losses, Stage
from instformer_ros.training.losses import temporal_contrastive_loss
from instformer_ros.training.tokens import Clips


class RolloutStage(Stage):
    """L_TC over clips, teacher-forced; the state is held while an object is absent.

    Args:
        mask_duplicates: other queries that show the same object are no negatives of it. The paper's Eq. 6 has them all.
    """

    def __init__(self, rollout: RolloutTracker, mask_duplicates: bool = False) -> None:
        super().__init__()
        self.rollout, self._mask_duplicates = rollout, mask_duplicates
        self.rollout.requires_grad_(True)

    def objects(self, batch: Clips) -> int:
        """Objects and frames that can be predicted: seen now, and before in the clip."""
        return int(_predictable(batch.targets).sum())

    def forward(self, batch: Clips, step: int, objects: float) -> Losses:
        """Loss and accuracy over all objects and frames that can be predicted."""
        clips = batch.to(next(self.rollout.parameters()).device)
        count, frames, tracked = clips.targets.shape
        asked = _predictable(clips.targets)
        state = self.rollout.initial_state(count * tracked)
        predicted = torch.zeros_like(state)
        loss = state.new_zeros(())
        right = torch.zeros((), dtype=torch.int64, device=state.device)
        for t in range(frames):
            tokens, target = clips.tokens[:, t], clips.targets[:, t]  # (B, N, W), (B, K)
            now = predicted.unflatten(0, (count, tracked))
            same = clips.same[:, t] if self._mask_duplicates else None
            loss = loss + temporal_contrastive_loss(now, tokens, target.where(asked[:, t], -1), same)
            right += ((_nearest(now, tokens) == target) & asked[:, t]).sum()
            seen = (target >= 0).flatten()[:, None]
            matched = tokens.gather(1, target.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1]))
            rolled, kept = self.rollout(matched.flatten(0, 1), state)
            predicted, state = rolled.where(seen, predicted), kept.where(seen, state)
        return {"loss": loss / objects, "accuracy": right / objects}


def _predictable(targets: Tensor) -> Tensor:
    """(B, T, K) bool: seen in this frame and in an earlier one."""
    seen = targets >= 0
    before = F.pad(seen.cumsum(1)[:, :-1] > 0, (0, 0, 1, 0))
    return seen & before


@torch.no_grad()
def _nearest(predicted: Tensor, tokens: Tensor) -> Tensor:
    """(B, K): the query of the greatest cosine."""
    return (F.normalize(predicted, dim=-1) @ F.normalize(tokens, dim=-1).mT).argmax(-1)
