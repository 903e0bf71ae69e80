"""Names of the same arrays in somebody else's checkpoint, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHOWN = 3  # keys named in an error
COUNTER = "num_batches_tracked"  # of batch normalisation: of no use after training, and absent from frozen layers


def some_of(keys: Iterable[str]) -> str:
    """The first few of many keys, and how many more there are."""
    names = list(keys)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@dataclass(frozen=True)
class Renamed:
    """Somebody's arrays under our names."""

    arrays: dict[str, Tensor]
    incomplete: list[str]  # their names of absent parts whose siblings are there
    unexpected: list[str]  # their names that nothing of ours corresponds to


@dataclass(frozen=True)
class Layout:
    """Rules from our keys to theirs.

    A rule pairs a template of ours with one of theirs, or with several whose arrays, stacked along the first axis, are
    ours (a packed [q; k; v], say). ``{name}`` stands for one piece between two dots, the same on both sides.
    """

    name: str
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    aliases: tuple[tuple[str, str], ...] = ()  # regular expression, replacement: older names of theirs become today's
    ignored: str = r"(?!)"  # regular expression: keys of theirs that hold nothing of ours

    @cached_property
    def _from_theirs(self) -> list[tuple[re.Pattern[str], str, int, int]]:
        return [
            (_pattern(theirs), ours, part, len(parts))
            for ours, parts in self.rules
            for part, theirs in enumerate(parts)
        ]

    @cached_property
    def _from_ours(self) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
        return [(_pattern(ours), parts) for ours, parts in self.rules]

    def theirs(self, key: str) -> tuple[str, ...]:
        """Their names of one array of ours.

        Raises:
            KeyError: they have none.
        """
        for pattern, parts in self._from_ours:
            if match := pattern.fullmatch(key):
                return tuple(part.format(**match.groupdict()) for part in parts)
        raise KeyError(key)

    def to_ours(self, state: Mapping[str, Tensor]) -> Renamed:
        """Renames and stacks; nothing is lost without being told of."""
        parts: dict[str, list[Tensor | None]] = {}
        unexpected = []
        for key, value in state.items():
            if re.fullmatch(self.ignored, key):
                continue
            place = self._place(key)
            if place is None:
                unexpected.append(key)
                continue
            ours, part, count = place
            parts.setdefault(ours, [None] * count)[part] = value
        arrays, incomplete = {}, []
        for ours, values in parts.items():
            whole = [value for value in values if value is not None]
            if len(whole) < len(values):
                incomplete += [n for n, value in zip(self.theirs(ours), values, strict=True) if value is None]
            else:
                arrays[ours] = whole[0] if len(whole) == 1 else torch.cat(whole)
        return Renamed(arrays, incomplete, unexpected)

    def from_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`to_ours`, under today's names."""
        theirs: dict[str, Tensor] = {}
        for key, value in state.items():
            names = self.theirs(key)
            pieces = value.chunk(len(names)) if len(names) > 1 else (value,)
            theirs.update({name: piece.clone() for name, piece in zip(names, pieces, strict=True)})
        return theirs

    def recognised(self, keys: Iterable[str]) -> int:
        """How many of these keys are theirs."""
        return sum(self._place(key) is not None for key in keys)

    def _place(self, key: str) -> tuple[str, int, int] | None:
        """Our key, which part of it this is, and of how many."""
        for old, new in self.aliases:
            key = re.sub(old, new, key)
        for pattern, ours, part, count in self._from_theirs:
            if match := pattern.fullmatch(key):
                return ours.format(**match.groupdict()), part, count
        return None


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(f"(?P<{p}>[^.]+)" if i % 2 else re.escape(p) for i, p in enumerate(pieces)))


def differences(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    unexpected: Iterable[str] = (),
    layout: Layout | None = None,
) -> list[str]:
    """What is wrong with the keys of a file, in words that name them; empty if nothing is.

    Args:
        found: arrays under our names.
        wanted: the network's own.
        unexpected: names that are known to be none of ours.
        layout: in whose names to speak; None = ours.
    """

    def name(key: str) -> str:
        return key if layout is None else layout.theirs(key)[0]

    absent = [name(key) for key in wanted if key not in found and not key.endswith(COUNTER)]
    foreign = [*unexpected, *(name(key) for key in found if key not in wanted)]
    shapes = [
        f"{name(key)} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
        for key, value in found.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    found_faults = (("lacks", absent), ("has the unexpected", foreign), ("has a wrong shape for", shapes))
    return [f"{problem} {some_of(keys)}" for problem, keys in found_faults if keys]
