"""The programs as processes: their end by signals, by themselves, and by errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_world import World, wait_for
from sensor_msgs.msg import Image

from instformer_ros.ros.images import from_message
from instformer_ros.ros.qos import image_qos, reliability_policy

_HERE = Path(__file__).parent
Start = Callable[..., "Program"]


class Program:
    """A process in the world's domain and namespace, with what it printed."""

    def __init__(self, world: World, folder: Path, command: Sequence[str], parameters: dict[str, Any]) -> None:
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(world.context.get_domain_id()), "PYTHONUNBUFFERED": "1"}
        self._log = folder / "output.txt"
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--ros-args", "-r", f"__ns:={world.namespace}", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        wait_for(lambda: words in self.output or self.process.poll() is not None, 60.0, f"'{words}'")
        assert words in self.output, self.output

    def ends_with(self, code: int, timeout: float = 60.0) -> str:
        """Waits for its end; returns what it printed, in which there is never a traceback."""
        assert self.process.wait(timeout) == code, self.output
        assert "Traceback" not in self.output and "Exception" not in self.output, self.output
        return self.output


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def make(*command: str, **parameters: Any) -> Program:
        programs.append(Program(world, tmp_path, command, parameters))
        return programs[-1]

    yield make
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
            program.process.wait()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve pictures, each of its own grey."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 50, 3), number * 20, np.uint8))
    return folder


# --- Signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGTERM"], ["SIGINT", "SIGTERM"], ["SIGINT"] * 300])
@pytest.mark.parametrize("when", ["loading", "listening to"])
def test_openvis_ends_cleanly_on_signals(start: Start, when: str, signals: list[str]) -> None:
    program = start(str(_HERE / "program_openvis.py"), "30" if when == "loading" else "0")
    program.wait_for(when)
    for name in signals:  # the long row reaches every moment of the clean-up
        program.process.send_signal(getattr(signal, name))
        time.sleep(0.005)
    program.ends_with(0, timeout=20.0)


def test_openvis_ends_cleanly_amid_frames(start: Start, world: World, pictures: Path) -> None:
    program = start(str(_HERE / "program_openvis.py"), "0")
    program.wait_for("listening to")
    camera = world.probe.create_publisher(Image, f"{world.namespace}/image", 10)
    wait_for(camera.get_subscription_count)
    message = Image(height=4, width=4, step=12, encoding="rgb8", data=bytes(48))
    for number in range(100):
        if number == 60:
            program.process.send_signal(signal.SIGINT)
            program.process.send_signal(signal.SIGINT)
        camera.publish(message)
        time.sleep(0.005)
    output = program.ends_with(0, timeout=20.0)
    assert "in all: " in output and "Failed to publish" not in output


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_openvis_leaves_the_middleware_in_order(start: Start) -> None:
    ours = _shared_memory("self")  # asked for first: later the probe may have the node's segment open, too
    program = start(str(_HERE / "program_openvis.py"), "0")
    program.wait_for("listening to")
    files = _shared_memory(str(program.process.pid)) - ours
    assert files
    program.process.send_signal(signal.SIGINT)
    program.ends_with(0)
    assert [path for path in files if path.exists()] == []


def _shared_memory(process: str) -> set[Path]:
    """Segments that the process has open. (Ports are left out: they outlive a process if another one talks to them.)"""
    maps = Path(f"/proc/{process}/maps").read_text()
    return {Path(path) for path in re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}\b", maps)}


def test_a_clients_nonsense_is_a_line_in_the_log(start: Start, world: World) -> None:
    """rclpy ends its executor over a parameter whose type there is not."""
    program = start(str(_HERE / "program_openvis.py"), "0")
    program.wait_for("listening to")
    client = world.probe.create_client(SetParameters, f"{world.namespace}/openvis/set_parameters")
    assert client.wait_for_service(20.0)
    odd = Parameter(name="max_coast", value=ParameterValue(type=200))
    client.call_async(SetParameters.Request(parameters=[odd]))
    program.wait_for("could not be served: ValueError: 200")
    good = Parameter(name="max_coast", value=ParameterValue(type=2, integer_value=9))
    assert (
        world.call(SetParameters, "openvis/set_parameters", SetParameters.Request(parameters=[good]))
        .results[0]
        .successful
    )
    program.process.send_signal(signal.SIGINT)
    program.ends_with(0)


def test_fuzz_of_a_running_node() -> None:
    """A few of the messages and calls that ``benchmarks/fuzz.py node`` sends by the thousand."""
    fuzz = _HERE.parents[1] / "benchmarks" / "fuzz.py"
    done = subprocess.run([sys.executable, fuzz, "node", "--count", "36"], capture_output=True, text=True, timeout=400)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["faults"] == [], report
    assert sum(sum(outcomes.values()) for outcomes in report["outcomes"].values()) == 36
    assert report["outcomes"]["words_by_service"].keys() <= {"accepted", "refused"}


def test_openvis_says_in_a_line_why_it_cannot_start(start: Start) -> None:
    program = start(str(_HERE / "program_openvis.py"), "0", score_threshold=7.0)
    output = program.ends_with(1)
    assert re.search(r"^error: parameter .*score_threshold.*$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params-file", "/nowhere.yaml"), "--params-file /nowhere.yaml"),
        (("--log-level", "loud"), "--log-level loud"),
        (("-r", "image:=my topic"), "image:=my topic"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_ros_arguments_that_are_no_good_are_an_error(start: Start, arguments: tuple[str, ...], words: str) -> None:
    output = start("-m", "instformer_ros.nodes.camera", "--ros-args", *arguments, source="toyvis:1").ends_with(1)
    said = [line for line in output.splitlines() if line.startswith("error: ROS arguments: ")]
    assert len(said) == 1 and words in said[0] and "/src/" not in said[0], output


# --- The camera -------------------------------------------------------------------------------------------------------

_CAMERA = ("-m", "instformer_ros.nodes.camera")


@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_the_camera_sends_all_and_ends_by_itself(start: Start, world: World, pictures: Path, reliability: str) -> None:
    program = start(
        *_CAMERA, source=pictures, wait_for_subscriber=True, frame_id="eye", rate=50.0, reliability=reliability
    )
    program.wait_for("waiting for a subscriber")
    time.sleep(0.5)
    heard: list[Image] = []
    profile = image_qos(reliability_policy(reliability), 20)
    world.probe.create_subscription(Image, f"{world.namespace}/image", heard.append, profile)
    assert "sent 12 images" in program.ends_with(0)
    wait_for(lambda: len(heard) == 12, what="the last image")
    assert [int(from_message(m)[0, 0, 0]) for m in heard] == [n * 20 for n in range(12)]
    assert all(m.header.frame_id == "eye" and (m.height, m.width) == (40, 50) for m in heard)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in heard]
    assert stamps == sorted(stamps) and abs(stamps[0] - time.time()) < 60


def test_the_camera_loops_until_stopped(start: Start, world: World, pictures: Path) -> None:
    program = start(*_CAMERA, source=pictures, loop=True, max_frames=3, rate=100.0)
    heard: list[int] = []
    world.probe.create_subscription(
        Image,
        f"{world.namespace}/image",
        lambda m: heard.append(int(m.data[0])),
        image_qos(reliability_policy("reliable")),
    )
    wait_for(lambda: len(heard) > 9, 60.0)
    assert set(heard) == {0, 20, 40}
    program.process.send_signal(signal.SIGINT)
    program.process.send_signal(signal.SIGINT)
    output = program.ends_with(0, timeout=20.0)
    assert re.search(r"sent \d+ images", output) and "Failed to publish" not in output


def test_the_camera_plays_toyvis(start: Start) -> None:
    program = start(*_CAMERA, source="toyvis:3", rate=500.0)
    assert "sent 36 images" in program.ends_with(0)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "source"),
        ({"source": "nowhere.mp4"}, "nowhere.mp4"),
        ({"source": __file__}, "test_programs.py"),
        ({"source": "toyvis:x"}, "toyvis:x"),
        ({"source": "toyvis:1", "rate": -1.0}, "rate"),
        ({"source": "toyvis:1", "reliability": "perhaps"}, "best_effort"),
    ],
)
def test_the_camera_says_in_a_line_what_is_wrong(start: Start, parameters: dict[str, Any], words: str) -> None:
    output = start(*_CAMERA, **parameters).ends_with(1)
    assert len([line for line in output.splitlines() if words in line]) == 1
    assert len(output.splitlines()) <= 2


def test_the_camera_names_a_broken_picture_on_the_way(start: Start, pictures: Path) -> None:
    (pictures / "5.png").write_bytes(b"not a picture")
    output = start(*_CAMERA, source=pictures, rate=100.0).ends_with(1)
    assert len([line for line in output.splitlines() if "5.png" in line]) == 1
