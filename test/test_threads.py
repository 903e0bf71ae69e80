"""The programs let torch's threads sleep while they wait for each other."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

_COMMAND = """
import instformer_ros.cli
instformer_ros.cli.main(["weights", "show", "none.safetensors"])
"""
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
needs_ros = pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="needs rclpy")


@pytest.mark.parametrize("program", [_COMMAND + "show()", pytest.param(_NODE, marks=needs_ros)], ids=["cli", "node"])
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["by default", "spins given", "policy given"],
)
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(
    program: str, given: dict[str, str], spins: str
) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run(
        [sys.executable, "-c", _SHOW + program], env=clean | given, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.split()[-1:] == [spins], run.stderr
