"""Text embeddings in memory and on disk: each word once, never another model's, and no harm from a bad disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instformer_ros.text_cache import TextCache, default_folder


class Counting:
    """Stands for a text encoder of width 4 and notes what it was asked."""

    def __init__(self, fingerprint: str = "one") -> None:
        self.asked: list[str] = []
        self._fingerprint = fingerprint

    def __call__(self, names: Sequence[str]) -> Tensor:
        self.asked += names
        vectors = [torch.tensor([len(n), ord(n[0]), ord(n[-1]), len(self._fingerprint)]).float() for n in names]
        return torch.stack([v / v.norm() for v in vectors]) if vectors else torch.zeros(0, 4)

    def fingerprint(self) -> str:
        return self._fingerprint


def cache(encoder: Counting, folder: Path) -> TextCache:
    return TextCache(encoder, folder)  # type: ignore[arg-type]


def test_every_word_is_embedded_once(tmp_path: Path) -> None:
    encoder = Counting()
    words = cache(encoder, tmp_path)
    first = words(["mug", "drill", "mug"], 4)
    assert encoder.asked == ["mug", "drill"]
    assert torch.equal(first, Counting()(["mug", "drill", "mug"]))
    assert torch.equal(words(["drill", "cup"], 4), Counting()(["drill", "cup"]))
    assert encoder.asked == ["mug", "drill", "cup"]
    assert words([], 4).shape == (0, 4)


def test_another_session_reads_from_disk_and_another_model_does_not(tmp_path: Path) -> None:
    wanted = cache(Counting(), tmp_path)(["mug", "杯子"], 4)
    again, other = Counting(), Counting("two models")
    assert torch.equal(cache(again, tmp_path)(["杯子", "mug"], 4), wanted.flip(0))
    assert again.asked == []
    cache(other, tmp_path)(["mug"], 4)
    assert other.asked == ["mug"]


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 16, b"\xff" * 16, b"\0" * 20])
def test_a_damaged_file_is_embedded_anew(tmp_path: Path, damage: bytes) -> None:
    wanted = cache(Counting(), tmp_path)(["mug"], 4)
    (file,) = [f for f in tmp_path.rglob("*") if f.is_file()]
    file.write_bytes(damage)
    encoder = Counting()
    assert torch.equal(cache(encoder, tmp_path)(["mug"], 4), wanted)
    assert encoder.asked == ["mug"]
    healed = Counting()
    cache(healed, tmp_path)(["mug"], 4)
    assert healed.asked == []


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert cache(Counting(), blocked)(["mug"], 4).shape == (1, 4)


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "instformer_ros" / "text"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "instformer_ros" / "text"


def test_memory_is_bounded_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    encoder = Counting()
    words = TextCache(encoder, tmp_path / "gone", kept=3)  # type: ignore[arg-type]
    names = ["one", "two", "three", "four", "five"]
    assert torch.equal(words(names, 4), Counting()(names))  # more than are kept
    words(["three"], 4)
    words(["six"], 4)
    assert list(words._memory) == ["five", "three", "six"]
    words.clear()
    assert not words._memory
    encoder.asked.clear()
    assert torch.equal(words(["six", "one"], 4), Counting()(["six", "one"]))
    assert encoder.asked == []  # from disk


def test_new_names_come_bit_by_bit_and_what_was_done_is_kept(tmp_path: Path) -> None:
    names = [f"word {number}" for number in range(100)]
    pauses: list[float] = []

    def give_up(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7 + 4:  # none of 7 times 16 names was on disk
            raise InterruptedError

    encoder = Counting()
    words = cache(encoder, tmp_path)
    with pytest.raises(InterruptedError):
        words(names, 4, give_up)
    done = len(encoder.asked)
    assert 4 <= done <= 1 + 2 + 4 + 8 and all(seconds >= 0 for seconds in pauses)
    assert torch.equal(words(names, 4, pauses.append), Counting()(names))
    assert encoder.asked == names  # each once


def test_what_is_read_from_disk_comes_bit_by_bit_too(tmp_path: Path) -> None:
    names = [f"word {number}" for number in range(100)]
    cache(Counting(), tmp_path)(names, 4)
    pauses: list[float] = []
    encoder = Counting()
    cache(encoder, tmp_path)(names, 4, pauses.append)
    assert encoder.asked == []
    assert len(pauses) == 7  # 16 names at a time


def test_the_disk_does_not_fill_with_words(tmp_path: Path) -> None:
    encoder = Counting()
    words = TextCache(encoder, tmp_path, on_disk=16)  # type: ignore[arg-type]
    for number in range(60):
        words([f"word {number}"], 4)
        os.utime(words._file(f"word {number}"), (number, number))  # disks tell times in steps of milliseconds
        assert len(list((tmp_path / "one").iterdir())) <= 18, "it is counted every eighth of them"
    assert (tmp_path / "one").exists() and len(encoder.asked) == 60
    again = TextCache(encoder, tmp_path, on_disk=16)  # type: ignore[arg-type]
    again(["word 59", "word 50", "word 0"], 4)
    assert encoder.asked[60:] == ["word 0"], "the newest stay"
