"""The processes of the soak: the node, whole or with a planted bug, and the hostile cameras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


def keep_apart() -> None:
    """A DDS domain of this run's own, whatever the shell's is: what follows is no good for a robot's node."""
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(_HERE.parent / "config" / "fastdds.xml"))


def start_node(bug: str | None, log: Any) -> subprocess.Popen[bytes]:
    """The node as a process, the clock taken from the camera."""
    program = ["-m", "instformer_ros.nodes.openvis"] if bug is None else [str(_HERE / "soak_node.py"), bug]
    arguments = ["--ros-args", "-p", "use_sim_time:=true", "-p", "report_interval:=0.0", "-p", "score_threshold:=0.0"]
    return subprocess.Popen([sys.executable, *program, *arguments], stdout=log, stderr=log)


class Camera:
    """One camera process at a time, or two."""

    def __init__(self, rate: float, log: Any) -> None:
        self._rate, self._log = rate, log
        self._generation = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> int:
        self._generation += 1
        command = [sys.executable, str(_HERE / "soak_camera.py"), str(self._generation), str(self._rate)]
        self._processes[self._generation] = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        return self._generation

    def kill(self, generation: int | None = None) -> None:
        """With SIGKILL; all of them unless one is named."""
        for each in [generation] if generation is not None else list(self._processes):
            process = self._processes.pop(each)
            process.kill()
            process.wait()
