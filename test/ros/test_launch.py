"""The launch files under a real ``ros2 launch``, and what RViz is set to show."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ros_world import World, wait_for

from instformer_ros.msg import InstanceArray

_ROOT = Path(__file__).resolve().parents[2]
_missing = [name for name in ("launch", "launch_ros", "ros2launch") if importlib.util.find_spec(name) is None]
needs_launch = pytest.mark.skipif(bool(_missing), reason=f"not installed: {', '.join(_missing)}")


class Launch:
    """``ros2 launch`` in the world's domain."""

    def __init__(self, world: World, folder: Path, *arguments: str) -> None:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(world.context.get_domain_id()), "PYTHONUNBUFFERED": "1"}
        program = shutil.which("ros2")
        assert program is not None
        self._log = folder / "launch.txt"
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [program, "launch", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**environment, "ROS_LOG_DIR": str(folder)},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[int]:
        """Processes of the session that live."""
        listed = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(self.process.pid)], capture_output=True, text=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [int(pid) for pid, state in rows if not state.startswith("Z")]

    def interrupt(self) -> int:
        """Ctrl-C: the terminal sends it to all of them, and launch passes it on."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(30.0)


@pytest.fixture
def launch(world: World, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    launches: list[Launch] = []

    def make(*arguments: str) -> Launch:
        launches.append(Launch(world, tmp_path, *arguments))
        return launches[-1]

    yield make
    for one in launches:
        for pid in one.children():
            os.kill(pid, signal.SIGKILL)


@needs_launch
@pytest.mark.parametrize("file", ["openvis", "openvis_depth", "demo"])
def test_every_argument_is_documented(launch: Callable[..., Launch], file: str) -> None:
    shown = launch("instformer_ros", f"{file}.launch.py", "--show-args")
    assert shown.process.wait(60.0) == 0, shown.output
    arguments = shown.output.count("    '")
    assert arguments >= 8 and "no description" not in shown.output.lower()
    assert shown.output.count("(default: ") == arguments


@needs_launch
@pytest.mark.parametrize(
    "argument",
    [
        "respawn:=maybe",
        "use_sim_time:=1",
        "log_level:=loud",
        "rate:=fast",
        "rate:=-1",
        "image:=a topic",
        "params_file:=/no.yaml",
    ],
)
def test_a_bad_argument_ends_the_launch_by_name(launch: Callable[..., Launch], argument: str) -> None:
    refused = launch("instformer_ros", "demo.launch.py", argument)
    assert refused.process.wait(60.0) == 1, refused.output
    name, _, value = argument.partition(":=")
    said = [line for line in refused.output.splitlines() if "[ERROR] [launch]" in line]
    assert len(said) == 1 and name in said[0] and value in said[0], refused.output
    assert "process started" not in refused.output


@needs_launch
def test_a_video_in_a_namespace_and_a_clean_end(launch: Callable[..., Launch], world: World, tmp_path: Path) -> None:
    """Two levels of namespaces, a parameter file, other topics; Ctrl-C ends all of it with code 0 and no traceback."""
    outer = tmp_path / "robot.launch.py"
    outer.write_text(
        "from launch import LaunchDescription\n"
        "from launch.actions import GroupAction, IncludeLaunchDescription\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource\n"
        "from launch_ros.actions import PushRosNamespace\n"
        "from ament_index_python.packages import get_package_share_directory\n"
        "def generate_launch_description():\n"
        "    path = get_package_share_directory('instformer_ros') + '/launch/openvis.launch.py'\n"
        "    arguments = {'video': 'toyvis:7', 'loop': 'true', 'image': 'eye/image', 'namespace': 'head',\n"
        f"                 'params_file': '{tmp_path}/own.yaml'}}\n"
        "    source = PythonLaunchDescriptionSource(path)\n"
        "    include = IncludeLaunchDescription(source, launch_arguments=arguments.items())\n"
        f"    return LaunchDescription([GroupAction([PushRosNamespace('{world.namespace}'), include])])\n"
    )
    (tmp_path / "own.yaml").write_text("/**:\n  ros__parameters:\n    device: cpu\n    publish_masks: false\n")
    answers: list[InstanceArray] = []
    topic = f"{world.namespace}/head/openvis/instances"
    world.probe.create_subscription(InstanceArray, topic, answers.append, 10)
    running = launch(str(outer))
    wait_for(lambda: answers or running.process.poll() is not None, 90.0, "an answer")
    assert answers, running.output
    wait_for(lambda: any(answer.instances for answer in answers), 60.0, "an instance")
    assert all(i.mask_encoding == "" for answer in answers for i in answer.instances)  # own.yaml
    assert world.probe.count_publishers(f"{world.namespace}/head/eye/image") == 1
    assert running.interrupt() == 0, running.output
    assert "Traceback" not in running.output and "process has died" not in running.output, running.output
    time.sleep(0.2)
    assert running.children() == []


@needs_launch
def test_respawn(launch: Callable[..., Launch]) -> None:
    running = launch("instformer_ros", "openvis.launch.py", "respawn:=true", "autostart:=false", "log_level:=debug")
    wait_for(lambda: "waiting to be configured" in running.output, 60.0, running.output)
    started = re.search(r"openvis_node-\d+\]: process started with pid \[(\d+)\]", running.output)
    assert started is not None, running.output
    os.kill(int(started.group(1)), signal.SIGKILL)
    wait_for(lambda: running.output.count("waiting to be configured") == 2, 60.0, running.output)
    assert "[DEBUG]" in running.output
    assert running.interrupt() == 0, running.output


def test_rviz_shows_what_there_is() -> None:
    """Every topic in the RViz set-up is one of ours or one that the launch file remaps."""
    setup = yaml.safe_load((_ROOT / "config" / "openvis.rviz").read_text())
    displays = {d["Class"].split("/")[1]: d for d in setup["Visualization Manager"]["Displays"]}
    assert {"Image", "MarkerArray", "TF", "DepthCloud"} <= set(displays)
    topics = {d["Topic"]["Value"] for d in displays.values() if "Topic" in d}
    topics |= {displays["DepthCloud"]["Color Image Topic"], displays["DepthCloud"]["Depth Map Topic"]}
    launch_file = (_ROOT / "launch" / "openvis.launch.py").read_text()
    for topic in topics:
        group, name = topic.strip("/").split("/")
        assert f'"{topic}"' in launch_file if group == "camera" else f'"{name}"' in launch_file
