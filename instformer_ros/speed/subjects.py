"""What is measured: an engine of some model and size, and frames for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.engine import EncodedVocabulary, Engine
from instformer_ros.model.config import PRESETS, ModelConfig
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.variants import Variant, vary
from instformer_ros.paths import model_path
from instformer_ros.settings import Settings
from instformer_ros.weights import checkpoint

Image = NDArray[np.uint8]
_WORDS = 20  # in force, unless they are what is measured
_OPEN = Settings(  # random weights: everything is tracked, and the first 20 are published with their masks
    score_threshold=0, objectness_threshold=0, keep_threshold=0, duplicate_threshold=1, max_instances=20
)


@dataclass(frozen=True)
class Subject:
    """A network before it is made ready, and how to make engines of it."""

    network: InstFormer
    device: torch.device
    precision: str
    trained: bool

    @property
    def config(self) -> ModelConfig:
        """Sizes of the network."""
        return self.network.config

    def copy(self) -> InstFormer:
        """The same weights again, on the CPU, not made ready."""
        made = InstFormer(self.config)
        made.load_state_dict(self.network.state_dict())
        return made.eval().requires_grad_(False)

    def engine(self, graphs: bool = True) -> Engine:
        """An engine of its own copy, with some words in force."""
        settings = Settings() if self.trained else _OPEN
        engine = Engine(self.copy(), self.device, settings, self.precision, graphs)
        engine.use_vocabulary(self.words(_WORDS))
        return engine

    def words(self, count: int) -> EncodedVocabulary:
        """Words with random embeddings: what they cost does not depend on what they say."""
        generator = torch.Generator().manual_seed(0)
        texts = torch.randn(count, self.network.instclip.embed_dim, generator=generator)
        texts = torch.nn.functional.normalize(texts, dim=-1).to(self.device)
        return EncodedVocabulary(tuple(f"word {i}" for i in range(count)), texts, texts[:0], ())


def load(
    model: str,
    device: torch.device,
    precision: str,
    short_side: int | None = None,
    variant: Variant | None = None,
) -> Subject:
    """A preset with random weights (seed 0), an embedded model by its name, or a checkpoint by its path.

    Args:
        model: which.
        device: where engines of it run.
        precision: of engines of it.
        short_side: at which the network sees pictures, if not at the model's own.
        variant: parts that differ from the checkpoint's: the paper's baselines.

    Raises:
        InstformerError: there is no such model, or it cannot be varied so.
    """
    if model in PRESETS:
        torch.manual_seed(0)
        network = InstFormer(PRESETS[model])
    else:
        network = checkpoint.load(Path(model) if model.endswith(".safetensors") else model_path(model))
    if variant is not None:
        network = vary(network, variant)
    if short_side is not None:
        longer = round(network.config.long_side * short_side / network.config.short_side)
        network.config = replace(network.config, short_side=short_side, long_side=longer)
    return Subject(network.eval().requires_grad_(False), device, precision, trained=model not in PRESETS)


def frames(width: int, height: int, count: int = 8) -> list[Image]:
    """Pictures of a ToyVIS video at some size."""
    video = ToyVideo(7)
    pictures = (video.frame(t % len(video))[0] for t in range(count))
    return [np.asarray(cv2.resize(picture, (width, height)), np.uint8) for picture in pictures]
