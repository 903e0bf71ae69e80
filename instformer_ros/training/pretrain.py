"""Image-text pre-training of the small CLIP (Radford et al. 2021) on ToyVIS's captioned scenes.

CLIP's native picture is a whole 192x256 frame. Training on windows of 96x96 and 64x64, each with the position
embeddings of a random place in the frame, costs a fifth or a twelfth and still teaches every position; a short phase on
whole frames ends it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from instformer_ros.data import toyvis
from instformer_ros.model.clip import Tokenizer
from instformer_ros.model.instclip import InstClip
from instformer_ros.training.loop import Losses

MAX_LOGIT_SCALE = 4.6052  # ln 100, as in CLIP
_MENTIONS = 3  # objects a scene, and mentions a caption, at most
_CHUNK = 500
LARGEST = 90  # diameter of a single object, in pixels
_GROUP = 8  # scenes of one colour and texture


@dataclass
class Scenes:
    """A pool of captioned scenes; flips and turns multiply it by eight (oblong: four) and leave the captions true."""

    images: NDArray[np.uint8]  # (S, H, W, 3) RGB
    captions: list[str]
    objects: list[tuple[str, ...]]


def _make_chunk(
    seed: int, size: tuple[int, int], index: int, count: int, classes: tuple[str, ...]
) -> list[tuple[NDArray[np.uint8], str, tuple[str, ...]]]:
    rng = np.random.default_rng([seed, index])
    return [toyvis.scene(rng, classes, size, largest=min(LARGEST, min(size) - 6)) for _ in range(count)]


def make_scenes(seed: int, size: tuple[int, int], count: int, classes: tuple[str, ...], workers: int = 2) -> Scenes:
    """Paints ``count`` scenes of ``size`` (H, W), the same for a seed whatever the number of workers."""
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    scenes = []
    with ProcessPoolExecutor(workers) as pool:
        chunks = range(len(sizes))
        same = itertools.repeat
        jobs = pool.map(_make_chunk, same(seed), same(size), chunks, sizes, same(classes))
        with tqdm(total=count, desc="scenes", unit="scene") as bar:
            for chunk in jobs:
                scenes += chunk
                bar.update(len(chunk))
    images, captions, objects = zip(*scenes, strict=True)
    return Scenes(np.stack(images), list(captions), list(objects))


@dataclass
class SceneBatch:
    """One step's data."""

    images: Tensor  # (B, 3, H, W) float32 RGB, 0-255
    tokens: Tensor  # (B, L) int64
    true: Tensor  # (B, B) bool: is caption j true of image i?


class SceneBatches:
    """Batches by step number. Captions lose an attribute now and then, so that "star" and "red star" are words too.

    Half of a batch is drawn at random; the other half comes in groups of single objects of one colour and texture: told
    apart by their shape alone, for colours are learnt in minutes and would else be all that a small batch asks for.
    """

    def __init__(self, scenes: Scenes, tokenizer: Tokenizer, batch: int, seed: int) -> None:
        self._scenes, self._tokenizer, self._batch, self._seed = scenes, tokenizer, batch, seed
        words = sorted({word for names in scenes.objects for name in names for word in name.split()})
        self._bit = {word: 1 << i for i, word in enumerate(words)}
        alike = defaultdict(list)
        for row, names in enumerate(scenes.objects):
            if len(names) == 1:
                alike[tuple(names[0].split()[:2])].append(row)
        self._alike = [np.array(alike[key]) for key in sorted(alike)]

    def __call__(self, step: int) -> SceneBatch:
        rng = np.random.default_rng([self._seed, 1, step])
        picks = rng.integers(len(self._scenes.images), size=self._batch)
        for start in range(self._batch // 2, self._batch, _GROUP):
            rows = self._alike[int(rng.integers(len(self._alike)))]
            picks[start : start + _GROUP] = rng.choice(rows, len(picks[start : start + _GROUP]))
        images = np.empty((self._batch, *self._scenes.images.shape[1:]), np.uint8)
        quarter = 3 if images.shape[1] == images.shape[2] else 2  # an oblong picture can only be turned by halves
        captions = []
        shown = np.zeros((self._batch, _MENTIONS), np.int64)  # bits of the objects in each image
        said = np.zeros((self._batch, _MENTIONS), np.int64)  # bits of the mentions in each caption
        for row, pick in enumerate(picks):
            turns = int(rng.integers(4)) & quarter
            image = np.rot90(self._scenes.images[pick], turns)
            images[row] = image[:, ::-1] if rng.random() < 0.5 else image
            caption = self._scenes.captions[pick]
            for slot, name in enumerate(self._scenes.objects[pick]):
                phrase = _shorten(name, rng)
                caption = caption.replace(name, phrase, 1)
                shown[row, slot] = self._bits(name)
                said[row, slot] = self._bits(phrase)
            captions.append(caption)
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return SceneBatch(tensor, self._tokenizer(captions), torch.from_numpy(_is_true(shown, said)))

    def _bits(self, phrase: str) -> int:
        return sum(self._bit[word] for word in phrase.split())


def _shorten(name: str, rng: np.random.Generator) -> str:
    colour, texture, shape = name.split()
    kept = [colour if rng.random() < 0.85 else "", texture if rng.random() < 0.8 else "", shape]
    return " ".join(word for word in kept if word)


def _is_true(shown: NDArray[np.int64], said: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, B): every mention of caption j fits some object of image i."""
    fits = (said[None, :, :, None] & ~shown[:, None, None, :]) == 0  # image, caption, mention, object
    fits &= (shown != 0)[:, None, None, :]
    return np.asarray((fits.any(-1) | (said == 0)[None]).all(-1))


def encode_windows(instclip: InstClip, images: Tensor, corners: Tensor) -> Tensor:
    """CLIP's image embedding of windows that lie at ``corners`` of the native frame.

    Args:
        images: (B, 3, h, w) float, RGB, 0-255, h and w multiples of the patch.
        corners: (B, 2) int64, row and column of each window's first patch in the native grid.

    Returns:
        (B, E), not normalised; equal to open_clip's ``encode_image`` when the window is the whole frame.
    """
    visual = instclip.visual
    x = visual.conv1((images - instclip.pixel_mean) / instclip.pixel_std)
    rows = corners[:, :1] + torch.arange(x.shape[-2], device=x.device)
    columns = corners[:, 1:] + torch.arange(x.shape[-1], device=x.device)
    index = rows[:, :, None] * visual.grid_size[1] + columns[:, None, :]
    positions = visual.positional_embedding
    x = x.flatten(2).transpose(1, 2) + positions[1:][index.flatten(1)]
    token = (visual.class_embedding + positions[0]).expand(len(x), 1, -1)
    x = visual.transformer(visual.ln_pre(torch.cat([token.to(x.dtype), x], 1)))
    return visual.ln_post(x[:, 0]) @ visual.proj


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's symmetric cross-entropy; a caption that happens to be true of another image is no negative there.

    Args:
        images, texts: (B, E) L2-normalised.
        logit_scale: log temperature.
        true: (B, B) bool, true[i, j] = caption j is true of image i.

    Returns:
        the loss and the accuracy of picking the caption, in [0, 1].
    """
    logits = logit_scale.exp() * images @ texts.t()
    target = torch.arange(len(logits), device=logits.device)
    others = true & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(others, float("-inf"))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
    return loss, (logits.argmax(1) == target).float().mean()


def pretrain_losses(instclip: InstClip, batch: SceneBatch) -> Losses:
    """Losses of one step; to be called under autocast."""
    clip, device = instclip.clip, instclip.pixel_mean.device
    rows, columns = instclip.visual.grid_size
    height, width = (side // instclip.patch for side in batch.images.shape[-2:])
    count = (len(batch.images),)
    corners = torch.stack([torch.randint(rows - height + 1, count), torch.randint(columns - width + 1, count)], 1)
    images = encode_windows(instclip, batch.images.to(device), corners.to(device))
    texts = clip.encode_text(batch.tokens.to(device))
    with torch.no_grad():
        clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    images, texts = (F.normalize(x.float(), dim=-1) for x in (images, texts))
    loss, accuracy = contrastive_loss(images, texts, clip.logit_scale, batch.true.to(device))
    return {"loss": loss, "accuracy": accuracy}


@torch.no_grad()
def initialise_clip(clip: Any) -> None:
    """Starting weights of towers that train from nothing: small text embeddings, as in CLIP, and sine positions.

    Positions that already say what lies beside what let shapes, which span many patches, be learnt much sooner.
    """
    nn.init.normal_(clip.token_embedding.weight, std=0.02)
    nn.init.normal_(clip.positional_embedding, std=0.02)
    visual = clip.visual
    rows, columns = visual.grid_size
    visual.positional_embedding[1:].copy_(0.5 * _sine_grid(rows, columns, visual.positional_embedding.shape[1]))


def _sine_grid(rows: int, columns: int, width: int, slowest: float = 0.01) -> Tensor:
    """(rows * columns, width): sines and cosines of row and column at 1 down to ``slowest`` radians a patch."""
    frequency = slowest ** torch.linspace(0, 1, width // 4)

    def axis(length: int) -> Tensor:
        phase = torch.arange(length)[:, None] * frequency
        return torch.cat([phase.sin(), phase.cos()], 1)  # (length, width / 2)

    y, x = axis(rows)[:, None].expand(-1, columns, -1), axis(columns)[None].expand(rows, -1, -1)
    return torch.cat([y, x], -1).flatten(0, 1)
