"""What the pipeline asks of the engine and of whoever takes its results, and how it counts the frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from instformer_ros.structures import TrackedFrame, Vocabulary

Pixels = NDArray[np.uint8]
M = TypeVar("M")  # a camera's message


class Picture(Protocol):
    """A message decoded."""

    @property
    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""


P = TypeVar("P", bound=Picture)
M_contra = TypeVar("M_contra", contravariant=True)


class Pending(Protocol):
    """What the engine says of a frame, but for its masks."""

    def finish(self) -> TrackedFrame:
        """All of it. Called by another thread than all else, while the engine may be at the next frame."""


class EngineLike(Protocol):
    """What is asked of :class:`instformer_ros.engine.Engine`; tests use a lighter one."""

    settings: Any

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def unknown_words(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> Any: ...

    @property
    def device_memory(self) -> int: ...

    @property
    def shortage(self) -> str: ...

    def warm_up(self) -> None: ...

    def encode_vocabulary(self, names: Sequence[str], pause: Callable[[float], None] | None = None) -> Any: ...

    def use_vocabulary(self, encoded: Any) -> Vocabulary: ...

    def begin(self, images: Mapping[str, Pixels]) -> Mapping[str, Pending]: ...

    def reset(self, camera: str | None = None) -> None: ...

    def close(self) -> None: ...


class Outlet(Protocol[M_contra, P]):
    """Where the pipeline's results go. All of it is called by the pipeline's threads and may raise.

    :meth:`decode` and :meth:`publish` are called at the same time, the one for a later pass than the other.
    """

    def decode(self, camera: str, message: M_contra) -> P:
        """What the message shows; raises InstformerError if it is no good."""

    def publish(self, camera: str, frame: P, answer: TrackedFrame) -> None:
        """Sends the answer to one message out. Called by one thread, in the order of the messages."""

    def vocabulary_changed(self, vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None:
        """A vocabulary has come into force; ``unknown`` are those of its words that the model never learnt.

        Every result with the words before is out, none with these is.
        """

    def complain(self, subject: str, error: BaseException) -> None:
        """Something was refused or went wrong; the pipeline goes on."""

    def died(self, error: BaseException) -> None:
        """A thread has ended by an error that it cannot survive; nothing is answered any more."""


@dataclass
class Counts:
    """What became of the frames. ``received = answered + dropped + refused + failed`` + the few under way.

    Of one camera's these are three at most: one waits, one is in the pass or its results wait, one is on its way out.
    """

    received: int = 0
    answered: int = 0
    dropped: int = 0  # overtaken by a newer one
    refused: int = 0  # bad input
    failed: int = 0  # an error of ours

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name)} {f.name}" for f in fields(self))
