"""What the frozen model sees in the videos of stage 2: extracted once, kept on disk, read clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from instformer_ros.model.instformer import InstFormer
from instformer_ros.preprocess import network_input
from instformer_ros.structures import InstformerError
from instformer_ros.training.team import Team

CLIP_FRAMES, CLIP_REACH = 5, 20  # frames of a clip, in order, within +-20 of its middle
_LEAST_OVERLAP = 0.5  # IoU under which a proposal is no sighting of an object
_CHUNK = 12  # frames a pass

Video = Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]]  # frames: RGB (H, W, 3), masks (K, H, W) of all objects


@dataclass
class VideoTokens:
    """What a frozen model sees in one video of T frames with K objects."""

    tokens: Tensor  # (T, N, W) tracking tokens
    targets: Tensor  # (T, K) int64: the query that matches each object; -1 where none does
    same: Tensor  # (T, K, N) bool: all queries that overlap the object well, the matching one among them


@dataclass
class Clips:
    """B clips of T frames; objects padded to the same K."""

    tokens: Tensor  # (B, T, N, W)
    targets: Tensor  # (B, T, K), -1 in the padding
    same: Tensor  # (B, T, K, N), False in the padding

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> Clips:
        """A copy there; itself if it is there."""
        return Clips(self.tokens.to(device), self.targets.to(device), self.same.to(device))


class TokenFiles(Sequence[VideoTokens]):
    """Videos on disk, read when asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """Raises InstformerError: the file is damaged."""
        try:
            return VideoTokens(**load_file(self._files[index]))
        except (SafetensorError, OSError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise InstformerError(f"{self._files[index]} cannot be read ({reason}); delete it and train on") from error


def extract(model: InstFormer, videos: int, open_video: Callable[[int], Video], folder: Path, team: Team) -> TokenFiles:
    """Runs the frozen model over videos, each process over its share; those that are on disk are left alone.

    Args:
        model: on the team's device.
        videos: how many.
        open_video: a video by its number from 0.
        folder: gets a file a video, tokens in half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index:05}.safetensors" for index in range(videos)]
    missing = [index for index in range(team.rank, videos, team.size) if not files[index].exists()]
    model.eval()
    for index in tqdm(missing, desc="tokens", unit="video", dynamic_ncols=True, disable=not (team.leads and missing)):
        seen = _watch(model, open_video(index), team.device)
        partial = files[index].with_suffix(".partial")
        save_file(vars(seen), partial)
        partial.replace(files[index])
    team.wait()
    return TokenFiles(files)


@torch.inference_mode()
def _watch(model: InstFormer, video: Video, device: torch.device) -> VideoTokens:
    tokens, targets, same = [], [], []
    frames = iter(video)
    while chunk := list(islice(frames, _CHUNK)):
        images, masks = zip(*chunk, strict=True)
        seen = model(network_input(images, model.config, device))
        tokens.append(model.rollout.tokens(seen.proposals.queries, seen.tokens).half().cpu())
        for i, truth in enumerate(masks):
            overlap = _overlap(seen.proposals.mask_logits[i], truth)
            targets.append(_assign(overlap, seen.proposals.objectness[i].cpu()))
            same.append(overlap >= _LEAST_OVERLAP)
    return VideoTokens(torch.cat(tokens), torch.stack(targets), torch.stack(same))


def _overlap(logits: Tensor, truth: NDArray[np.bool_]) -> Tensor:
    """(K, N) IoU of K true masks with N proposals, on the grid of the proposals."""
    wanted = F.interpolate(torch.from_numpy(truth.astype(np.float32))[None], logits.shape[-2:], mode="area")[0]
    true, found = (wanted > 0.5).flatten(1).float(), (logits > 0).flatten(1).cpu().float()
    common = true @ found.t()
    return common / (true.sum(1)[:, None] + found.sum(1)[None] - common).clamp(min=1)


def _assign(overlap: Tensor, objectness: Tensor) -> Tensor:
    """(K,) the query of each object, one to one, by mask IoU (and objectness between equals); -1 = not seen."""
    targets = torch.full((len(overlap),), -1)
    for k, n in zip(*linear_sum_assignment((overlap + 0.1 * objectness).numpy(), maximize=True), strict=True):
        if overlap[k, n] >= _LEAST_OVERLAP:
            targets[k] = int(n)
    return targets


class ClipBatches:
    """Clips by the number of the batch: five frames in order from one video each.

    Args:
        videos: in memory, or :class:`TokenFiles`.
        batch: clips of a batch.
        seed: of all chance.
        chances: of each video to be drawn, which add up to 1; None = all the same.
    """

    def __init__(
        self, videos: Sequence[VideoTokens], batch: int, seed: int, chances: Sequence[float] | None = None
    ) -> None:
        self._videos, self._batch, self._seed, self._chances = videos, batch, seed, chances

    def __call__(self, number: int) -> Clips:
        clips = [self._clip(index) for index in range(number * self._batch, (number + 1) * self._batch)]
        most = max(clip.targets.shape[1] for clip in clips)
        return Clips(
            torch.stack([clip.tokens.float() for clip in clips]),
            torch.stack([F.pad(clip.targets, (0, most - clip.targets.shape[1]), value=-1) for clip in clips]),
            torch.stack([F.pad(clip.same, (0, 0, 0, most - clip.same.shape[1])) for clip in clips]),
        )

    def _clip(self, index: int) -> VideoTokens:
        rng = np.random.default_rng([self._seed, 3, index])
        video = self._videos[int(rng.choice(len(self._videos), p=self._chances))]
        frames = _frames(len(video.tokens), rng)
        targets = video.targets[frames]
        targets[1:][torch.from_numpy(frames[1:] == frames[:-1])] = -1  # the padding of a short video teaches nothing
        return VideoTokens(video.tokens[frames], targets, video.same[frames])


def _frames(length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Frames of a clip, in order; of a video that is shorter, all, the last one several times."""
    middle = int(rng.integers(length))
    window = np.arange(max(0, middle - CLIP_REACH), min(length, middle + CLIP_REACH + 1))
    frames = np.sort(rng.choice(window, min(CLIP_FRAMES, len(window)), replace=False))
    return np.pad(frames, (0, CLIP_FRAMES - len(frames)), mode="edge")
