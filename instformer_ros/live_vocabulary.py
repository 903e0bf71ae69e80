"""The words in force: embedded off the frame path, then swapped in between two frames, all at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import TextEncoder, live_negatives, validate_names
from instformer_ros.ready_vocabulary import ReadyWords
from instformer_ros.structures import InstformerError, Session, Vocabulary
from instformer_ros.text_cache import TextCache


@dataclass(frozen=True)
class EncodedVocabulary:
    """Words with their embeddings, ready to take effect between two frames."""

    names: tuple[str, ...]
    embeddings: Tensor  # (K, E) on the engine's device
    negatives: Tensor  # (M, E) the live negatives that fit these words
    unknown: tuple[str, ...]  # words that the text model's token table does not hold

    @cached_property
    def texts(self) -> Tensor:
        """(K + M, E) embeddings and negatives."""
        return torch.cat([self.embeddings, self.negatives])


@dataclass(frozen=True)
class ActiveVocabulary:
    """The vocabulary in force: version, names and embeddings change together, in one assignment."""

    vocabulary: Vocabulary
    encoded: EncodedVocabulary


class LiveVocabulary:
    """Embeds words and holds those in force. Thread-safe."""

    def __init__(self, model: InstFormer, device: torch.device, session: Session) -> None:
        self._device, self._negatives = device, model.config.negatives
        self._width = model.instclip.embed_dim
        encoder = TextEncoder(model.instclip, model.config.clip)
        self._texts, self._tokenizer = TextCache(encoder), encoder.tokenizer
        self._session = session
        self._swap = threading.Lock()  # guards the version number
        self.active = ActiveVocabulary(Vocabulary(), self.encode(()))

    def encode(self, names: Sequence[str], pause: Callable[[float], None] | None = None) -> EncodedVocabulary:
        """Embeds words and the negatives that fit them; ``pause`` as for :class:`.TextCache`.

        Raises:
            InstformerError: too many words, or one that is too long.
        """
        words = validate_names(names)
        negatives = live_negatives(self._negatives, words) if words else ()
        embeddings = self._texts((*words, *negatives), self._width, pause).to(self._device)
        unknown = tuple(word for word in words if not self._tokenizer.knows(word))
        return EncodedVocabulary(words, embeddings[: len(words)], embeddings[len(words) :], unknown)

    def encode_embeddings(self, words: ReadyWords) -> EncodedVocabulary:
        """As :meth:`encode`, from ready-made embeddings of this model's CLIP.

        Raises:
            InstformerError: they are another CLIP's, to judge by their width.
        """
        given = words.embeddings.shape[1]
        if given != self._width:
            raise InstformerError(f"vocabulary embeddings have {given} numbers; this CLIP has {self._width}")
        negatives = self._texts(live_negatives(self._negatives, words.names), self._width)
        return EncodedVocabulary(words.names, words.embeddings.to(self._device), negatives.to(self._device), ())

    def use(self, encoded: EncodedVocabulary) -> Vocabulary:
        """Puts words into force under the next version number."""
        with self._swap:
            self._session.vocabulary_version += 1
            vocabulary = Vocabulary(self._session.vocabulary_version, encoded.names)
            self.active = ActiveVocabulary(vocabulary, encoded)
        return vocabulary

    def clear(self) -> None:
        """Frees all embeddings."""
        self._texts.clear()
        nothing = EncodedVocabulary((), torch.empty(0), torch.empty(0), ())
        self.active = ActiveVocabulary(self.active.vocabulary, nothing)
