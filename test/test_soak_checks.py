"""The soak's checks see what they are there for, and nothing in a run that is right."""

from __future__ import annotations

import mmap
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from soak_checks import Checker, Result, Seen, Tag
from soak_resources import KINDS, Resources, memory

NAMES = ("mug", "drill")


def tag(number: int, **changes: object) -> Tag:
    return replace(Tag(1, number, 48, 64, (number, 7), 100.0 + number, "good", 100.5), **changes)  # type: ignore[arg-type]


def result(number: int, *seen: Seen, of: Tag | None = None, version: int = 1) -> Result:
    made = of or tag(number)
    return Result(made.text(), made.stamp, made.height, made.width, version, number, seen)


def seen(track_id: int, age: int, state: str = "tracked", name: str = "mug") -> Seen:
    return Seen(track_id, state, age, NAMES.index(name) if name in NAMES else 0, name)


@pytest.fixture
def checker() -> Checker:
    made = Checker(latency_limit=5.0)
    made.vocabulary(1, NAMES)
    made.result(result(1, seen(1, 1), seen(2, 1, name="drill")), 101.1)
    return made


def test_a_run_that_is_right_has_no_faults(checker: Checker) -> None:
    checker.result(result(2, seen(1, 2, "terminated"), seen(2, 2, name="drill")), 102.1)
    checker.result(result(3, seen(2, 3, name="drill"), seen(3, 1)), 103.1)
    checker.result(replace(result(0, seen(4, 1), of=tag(4))), 104.1)  # cleared, and new IDs
    checker.end()
    assert not checker.faults, checker.examples
    assert checker.latencies == pytest.approx([0.1] * 4)


def test_a_tag_comes_back_from_its_text() -> None:
    assert Tag.parse(tag(3).text()) == tag(3)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("header", replace(result(2), stamp=(2, 8))),
        ("header", replace(result(2), width=65)),
        ("header", replace(result(2), frame_id="camera")),
        ("header", result(2, of=tag(2, quality="bad"))),
        ("header", result(2, of=tag(1))),  # answered twice
        ("identity", result(2, seen(5, 1), seen(5, 1))),
        ("identity", result(2, seen(1, 1))),  # born again
        ("identity", replace(result(0, seen(1, 1)), frame_id=tag(2).text(), stamp=tag(2).stamp)),  # after clearing
        ("vocabulary", result(2, Seen(1, "tracked", 2, 0, "drill"))),
        ("vocabulary", result(2, Seen(1, "tracked", 2, -1, ""))),
        ("vocabulary", result(2, seen(1, 2), version=9)),  # never published
        ("latency", result(2, of=tag(2, sent=90.0))),
    ],
)
def test_each_fault_is_seen(checker: Checker, kind: str, bad: Result) -> None:
    checker.result(bad, 102.1)
    checker.end()
    assert set(checker.faults) == {kind}, checker.examples


def test_ids_and_versions_go_on_when_the_node_is_configured_anew(checker: Checker) -> None:
    checker.configured_anew()
    checker.result(replace(result(2, seen(3, 1)), frame_index=7), 102.1)
    assert not checker.faults
    checker.result(replace(result(3, seen(2, 1)), frame_index=8), 103.1)
    assert set(checker.faults) == {"identity"}
    checker.vocabulary(1, ("cup",))
    assert set(checker.faults) == {"identity", "vocabulary"}


def test_a_damaged_jpeg_may_be_any_picture(checker: Checker) -> None:
    checker.result(replace(result(2, of=tag(2, quality="either")), width=65), 102.1)
    assert not checker.faults


def test_an_ended_track_stays_ended(checker: Checker) -> None:
    checker.result(result(2, seen(1, 2, "terminated")), 102.1)
    checker.result(result(3, seen(1, 3)), 103.1)
    assert checker.faults["identity"] == 1


def test_a_confirmed_vocabulary_holds_from_then_on(checker: Checker) -> None:
    checker.vocabulary(2, NAMES)
    checker.confirmed(2, 101.5)
    checker.result(result(2, seen(1, 2)), 102.1)
    assert checker.faults["vocabulary"] == 1
    checker.result(result(3, seen(1, 3), version=2), 103.1)
    assert checker.faults["vocabulary"] == 1


def test_a_version_that_changes_its_names_is_a_fault(checker: Checker) -> None:
    checker.vocabulary(1, ("cup",))
    assert checker.faults["vocabulary"] == 1


def test_a_camera_is_answered_from_its_first_image_on(checker: Checker) -> None:
    of = tag(9, generation=2, began=108.25)  # its earlier images were not heard
    checker.result(result(2, seen(1, 2), of=of), 109.5)
    checker.result(result(3, seen(1, 3), of=replace(of, number=10, sent=110.0)), 110.5)
    assert checker.first_results == {1: (100.5, 101.1), 2: (108.25, 109.5)}


def test_memory_is_held_against_that_of_the_settled_process_kind_by_kind() -> None:
    """It comes and goes at work; now and then the process rests. RssAnon leaks 100 kB a second."""
    resources = Resources(os.getpid())
    resources.rows = [(t, 3e8 + 1e6 * (t % 7) + 1e5 * t, 1e8, 5e7 + 1e7 * (t > 200), 20, 30) for t in range(301)]
    assert "at_rest" not in resources.growth(60.0)
    resources.resting = [(t, int(2e8 + 1e5 * t)) for t in range(10, 300, 20)]
    growth = resources.growth(60.0)
    assert growth["at_rest"] == {"start_MB": 209.0, "end_MB": 227.0, "growth": round(227 / 209 - 1, 4)}
    assert 0.05 < growth["RssAnon"]["growth"] < 0.07
    assert growth["RssFile"]["growth"] == 0
    assert growth["RssShmem"] == {"start_MB": 50.0, "end_MB": 60.0, "growth": 0.2}
    assert resources.course(3)["RssShmem"] == [50.0, 50.0, 60.0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_by_kind_is_that_of_the_process() -> None:
    before = memory(os.getpid())
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:  # the heap may have as much left
        held.write(b"x" * len(held))
        after = memory(os.getpid())
        size = len(held)
    assert set(after) == set(KINDS)
    assert after["RssAnon"] - before["RssAnon"] > size - (4 << 20)
    assert after["RssFile"] - before["RssFile"] < 4 << 20
    with pytest.raises(OSError):
        memory(2**22 + 1)  # beyond the largest process number
