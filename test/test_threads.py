"""How many threads the network gets, and how they wait."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from instformer_ros import threads

_NODE = """
import instformer_ros.nodes.run as run
def make():
    assert "torch" not in sys.modules
    show()
    raise run.Finished
run.run(make)
"""
_SHOW = """
import os, sys
def show():
    print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (8, 7)])
def test_one_core_is_left_to_the_others(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    assert threads.use_threads(0) == expected == torch.get_num_threads()


def test_a_number_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads.use_threads(3) == 3 == torch.get_num_threads()


def test_the_environment_goes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    torch.set_num_threads(2)  # as torch does on its import
    assert threads.use_threads(0) == 2 == torch.get_num_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_only_the_cores_of_this_process_count() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += "from instformer_ros.threads import available_cores; print(available_cores())"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "1"


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="needs rclpy")
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["by default", "spins given", "policy given"],
)
def test_a_node_s_waiting_threads_sleep_unless_the_environment_says_otherwise(
    given: dict[str, str], spins: str
) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run(
        [sys.executable, "-c", _SHOW + _NODE], env=clean | given, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split()[-1:] == [spins], run.stderr
