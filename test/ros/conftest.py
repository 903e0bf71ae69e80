"""ROS tests need rclpy and the built messages; without them they are skipped, with the reason printed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipeline_fakes import Make, Picture
    from ros_fakes import FakeEngine, Loader
    from ros_rig import Rig, Start
    from ros_world import World

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests


def _missing() -> list[str]:
    return [name for name in ("rclpy", "instformer_ros.msg") if importlib.util.find_spec(name) is None]


collect_ignore_glob: list[str] = []
if _missing():
    collect_ignore_glob = ["test_*.py"]
    print(f"test/ros is skipped: no {' and no '.join(_missing())}; run 'make setup' and 'source scripts/env.sh'")


@pytest.fixture
def world() -> Iterator[World]:
    """A ROS of the test's own."""
    from ros_world import World

    here = World()
    yield here
    here.close()


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    """Starts the node: ``start(loader, start=True, **parameters)``."""
    import cv2
    import torch
    from ros_fakes import Loader
    from ros_rig import Rig

    rigs: list[Rig] = []
    threads, pictures = torch.get_num_threads(), cv2.getNumThreads()  # the node sets its own

    def make(loader: Loader | None = None, start: bool = True, **parameters: Any) -> Rig:
        rigs.append(Rig(world, loader or Loader(), parameters, start))
        return rigs[-1]

    yield make
    for rig in rigs:
        assert rig.node.close()
    torch.set_num_threads(threads)
    cv2.setNumThreads(pictures)


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a pipeline: ``make(**engine)``; with its engine and outlet."""
    from pipeline_fakes import Outlet
    from ros_fakes import FakeEngine

    from instformer_ros.nodes.pipeline import Pipeline

    made: list[Pipeline[int, Picture]] = []
    outlets: list[Outlet] = []

    def build(**engine: Any) -> tuple[Pipeline[int, Picture], FakeEngine, Outlet]:
        fake, outlet = FakeEngine(**engine), Outlet()
        outlets.append(outlet)
        made.append(Pipeline(fake, outlet))
        return made[-1], fake, outlet

    yield build
    for outlet in outlets:
        outlet.gate.set()
    for pipeline in made:
        assert pipeline.close()
