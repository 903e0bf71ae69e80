"""The text side: words become CLIP embeddings; a live vocabulary meets unpublished negatives (paper Sec. 5.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.clip import Tokenizer
from instformer_ros.model.config import ClipConfig
from instformer_ros.model.instclip import InstClip
from instformer_ros.structures import InstformerError

PROMPTS = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}",
    "This is a photo of a medium {}",
    "This is a photo of a large {}",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
MAX_WORDS = 2000
MAX_LENGTH = 200
_CHUNK = 256  # texts a pass of the text tower


def validate_names(names: Sequence[str]) -> tuple[str, ...]:
    """Cleans a vocabulary: trims, drops blank words and repetitions (whatever their case; the first stays).

    Raises:
        InstformerError: more than 2000 words, a word of more than 200 characters, or something that is no text
            or no valid UTF-8.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise InstformerError(f"vocabulary: {name!r} is no text; give words such as 'mug'")
        name = " ".join(name.split())
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python shows bytes that are no UTF-8
            raise InstformerError(f"vocabulary: the word {name[:24]!a} is no valid UTF-8; write it anew")
        if len(name) > MAX_LENGTH:
            raise InstformerError(
                f"vocabulary: the word '{name[:24]}...' has {len(name)} characters; use at most {MAX_LENGTH}"
            )
        if name:
            seen.setdefault(name.casefold(), name)
    if len(seen) > MAX_WORDS:
        raise InstformerError(f"vocabulary: {len(seen)} words; use at most {MAX_WORDS}")
    return tuple(seen.values())


def parse_vocabulary(text: str) -> list[str]:
    """Splits "mug, drill, person" at the commas."""
    return [word for word in (part.strip() for part in text.split(",")) if word]


def live_negatives(negatives: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The negatives that may compete with ``names``.

    One that says the same thing, or the same more precisely ("red striped star" beside the word "star", "coffee mug"
    beside "mug") or less ("mug" beside "coffee mug"), would take the object's score from its own word: it is left out.

    Args:
        negatives: each a text, and behind slashes what else it is called or is one of: "sofa/couch/furniture".
        names: the vocabulary.
    """
    wanted = [_words(name) for name in names]
    groups = [negative.split("/") for negative in negatives]
    meanings = [[_words(text) for text in group] for group in groups]
    return tuple(
        group[0]
        for group, texts in zip(groups, meanings, strict=True)
        if not any(_says_the_same(name, text) for name in wanted for text in texts)
    )


def _says_the_same(name: list[str], text: list[str]) -> bool:
    return set(name) <= set(text) or name[-len(text) :] == text


def _words(text: str) -> list[str]:
    """Its words without case and plural."""
    folded = re.split(r"[\s_-]+", text.casefold())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in folded]


class TextEncoder:
    """Embeds names with CLIP's text tower and the 14 prompts."""

    def __init__(self, instclip: InstClip, config: ClipConfig) -> None:
        self._clip = instclip.clip
        self._unseen = (config.quick_gelu, config.tokens)  # changes embeddings, but is in no weight
        self.tokenizer = Tokenizer(config, self._clip.context_length)

    @torch.inference_mode()
    def __call__(self, names: Sequence[str]) -> Tensor:
        """Embeds ``names``: each prompt's embedding normalised, averaged over the prompts, normalised.

        Returns:
            (len(names), E) float32 on the model's device.
        """
        texts = [prompt.format(name) for name in names for prompt in PROMPTS]
        device = self._clip.positional_embedding.device
        pieces = [self._encode(self.tokenizer(texts[i : i + _CHUNK]).to(device)) for i in range(0, len(texts), _CHUNK)]
        if not pieces:
            return torch.zeros(0, self._clip.text_projection.shape[-1], device=device)
        return F.normalize(torch.cat(pieces).unflatten(0, (len(names), len(PROMPTS))).mean(1), dim=-1)

    def _encode(self, tokens: Tensor) -> Tensor:
        """(n, context length) tokens to (n, E), L2-normalised, as CLIP's own ``encode_text`` gives them.

        Attention is causal, so nothing behind the end of a text matters: the padding, most of every row, is cut off.
        """
        clip, ends = self._clip, tokens.argmax(1)
        length = int(ends.max()) + 1
        x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        return F.normalize(x[torch.arange(len(x), device=x.device), ends] @ clip.text_projection, dim=-1).float()

    def fingerprint(self) -> str:
        """Names this text model and these prompts, as a key for caches on disk."""
        digest = hashlib.sha256("\n".join(PROMPTS).encode())
        digest.update(repr(self._unseen).encode())
        for key, value in sorted(self._clip.state_dict().items()):
            if not key.startswith("visual."):
                digest.update(key.encode() + value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]


def class_scores(tokens: Tensor, names: Tensor, negatives: Tensor | None, logit_scale: Tensor) -> Tensor:
    """Softmax over the vocabulary, and over the negatives too where given (they take their share, unpublished).

    Args:
        tokens: (..., E) instance tokens, or means of them.
        names: (K, E) text embeddings of the vocabulary.
        negatives: (M, E) or None.
        logit_scale: CLIP's learnt log temperature.

    Returns:
        (..., K) in [0, 1]; sums to one without negatives, to at most one with them.
    """
    texts = names if negatives is None else torch.cat([names, negatives])
    return class_logits(tokens, texts, logit_scale).softmax(-1)[..., : names.shape[0]]


def class_logits(tokens: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """(..., E) instance tokens and (C, E) text embeddings -> (..., C), linear in the tokens."""
    return logit_scale.exp() * tokens @ texts.t()
