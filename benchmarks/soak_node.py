"""The openvis node with a planted bug, to prove that the soak sees it: soak_node.py BUG [ROS arguments].

Every bug starts a while after the node does. Nothing of this is known to the package.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from instformer_ros.engine import Engine
from instformer_ros.nodes import openvis
from instformer_ros.nodes.openvis_node import OpenVisNode

BUGS = ("leak", "stale_vocabulary", "reused_id", "wrong_stamp", "dead_worker")
_AFTER = 15.0  # seconds

_started = time.monotonic()
_leaked: list[bytes] = []


def _is_time() -> bool:
    return time.monotonic() - _started > _AFTER


def plant(bug: str) -> None:
    """Changes the classes of the package in this process."""
    publish, begin, use = OpenVisNode.publish, Engine.begin, Engine.use_vocabulary

    def leak(self: Engine, images: Any) -> Any:
        _leaked.append(bytes(range(256)) * 400)  # 100 kB an image
        return begin(self, images)

    def stale_vocabulary(self: Engine, encoded: Any) -> Any:
        old = self._words.active.encoded
        vocabulary = use(self, encoded)
        if _is_time() and old.names and encoded.names:
            self._words.active = replace(self._words.active, encoded=old)
        return vocabulary

    def reused_id(self: Engine, images: Any) -> Any:
        frames = begin(self, images)
        for pending in frames.values() if _is_time() else ():
            for instance in pending.frame.instances:
                instance.track_id = instance.track_id % 7 + 1
        return frames

    def wrong_stamp(self: OpenVisNode, camera: str, frame: Any, answer: Any) -> None:
        if _is_time():
            frame.header.stamp.nanosec = (frame.header.stamp.nanosec + 1) % 1_000_000_000
        publish(self, camera, frame, answer)

    def dead_worker(self: Engine, images: Any) -> Any:
        while _is_time():
            time.sleep(1.0)
        return begin(self, images)

    match bug:
        case "leak" | "reused_id" | "dead_worker":
            Engine.begin = {"leak": leak, "reused_id": reused_id, "dead_worker": dead_worker}[bug]  # type: ignore[method-assign]
        case "stale_vocabulary":
            Engine.use_vocabulary = stale_vocabulary  # type: ignore[method-assign]
        case "wrong_stamp":
            OpenVisNode.publish = wrong_stamp  # type: ignore[method-assign]
        case _:
            sys.exit(f"unknown bug '{bug}': use one of {', '.join(BUGS)}")


if __name__ == "__main__":
    plant(sys.argv[1])
    openvis.main(sys.argv[2:])
