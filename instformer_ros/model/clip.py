"""CLIP, built by open_clip from a model config: both towers, and a tokenizer that knows which rows were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from instformer_ros.model.config import ClipConfig
from instformer_ros.structures import InstformerError

FALLBACK_ROW = 1  # of a pruned token table: stands for every piece of a word that was not kept


def build_clip(config: ClipConfig) -> open_clip.CLIP:
    """Builds the towers with random weights.

    Raises:
        InstformerError: open_clip does not know the architecture, or it is no plain ViT.
    """
    model: dict[str, Any] | None = config.model or open_clip.get_model_config(config.architecture)
    if model is None:
        raise InstformerError(
            f"CLIP architecture '{config.architecture}' is unknown to open_clip; see open_clip.list_models()"
        )
    if not isinstance(model, dict):
        raise InstformerError(f"CLIP config of '{config.architecture}': no dictionary; give an open_clip model config")
    # open_clip would fetch these from the internet, and the config may be a foreign checkpoint's.
    parts = [part for part in (model.get("vision_cfg"), model.get("text_cfg")) if isinstance(part, dict)]
    if foreign := sorted(key for part in parts for key in part if key.startswith(("timm_", "hf_"))):
        raise InstformerError(f"CLIP '{config.architecture}' names {foreign[0]}; InstCLIP needs open_clip's own ViT")
    try:
        clip = open_clip.CLIP(
            embed_dim=model["embed_dim"],
            vision_cfg=model["vision_cfg"],
            text_cfg=model["text_cfg"],
            quick_gelu=config.quick_gelu,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise InstformerError(
            f"CLIP config of '{config.architecture}': {error}; give an open_clip model config"
        ) from error
    visual = clip.visual
    if not isinstance(visual, open_clip.transformer.VisionTransformer) or visual.pool_type != "tok":
        raise InstformerError(
            f"CLIP '{config.architecture}' is no ViT with a class token; InstCLIP needs one, e.g. ViT-B-32"
        )
    return clip


class Tokenizer:
    """CLIP's byte-pair tokenizer over a table that may hold only some of its rows.

    Raises:
        InstformerError: the config keeps tokens that there are not.
    """

    def __init__(self, config: ClipConfig, context_length: int) -> None:
        self._tokenizer = SimpleTokenizer(context_length=context_length)
        self._row: Tensor | None = None
        self._kept = frozenset(config.tokens or ())
        if config.tokens is not None:
            size = len(self._tokenizer.encoder)
            if not all(isinstance(token, int) and 0 <= token < size for token in config.tokens):
                raise InstformerError(
                    f"clip config: a kept token is no id from 0 to {size - 1}; build the checkpoint again"
                )
            row = torch.full((size,), FALLBACK_ROW)
            row[torch.tensor(config.tokens)] = torch.tensor(kept_rows(len(config.tokens)))
            self._row = row

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts to (len(texts), context length) int64 rows of the token table."""
        tokens = self._tokenizer(list(texts))
        return tokens if self._row is None else self._row[tokens]

    def knows(self, text: str) -> bool:
        """Is every piece of ``text`` in the token table? Else some of it is encoded by the fallback row."""
        return self._row is None or self._kept.issuperset(self._tokenizer.encode(text))


def kept_rows(count: int) -> list[int]:
    """Rows of the kept tokens, in ascending order of token id.

    Padding (id 0) keeps row 0, the fallback takes row 1, and "end of text", the highest id, stays the highest row,
    because CLIP's text tower finds it by argmax.
    """
    return [0, *range(FALLBACK_ROW + 1, count + 1)]


def tokens_of(texts: Sequence[str]) -> tuple[int, ...]:
    """Ascending token ids that ``texts`` use, with padding, start and end: what a pruned table must keep."""
    tokenizer = SimpleTokenizer()
    used = {0, tokenizer.sot_token_id, tokenizer.eot_token_id}
    for text in texts:
        used.update(tokenizer.encode(text))
    return tuple(sorted(used))
