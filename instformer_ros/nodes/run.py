"""Starts a node, spins it in one thread and ends it cleanly, whatever the signal and how often it comes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol, cast

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from instformer_ros.structures import InstformerError


class Finished(Exception):
    """Raised in a callback: the node has done its work and the process shall end."""


class Program(Protocol):
    """A node that can be run. It is a :class:`rclpy.node.Node` as well."""

    def start(self) -> None:
        """Called in the executor's thread before it spins."""

    def close(self) -> bool:
        """Ends the node's threads; False if one of them is still at work."""

    def destroy_node(self) -> None: ...

    def get_logger(self) -> Any: ...


def run(make_node: Callable[[], Program], args: Sequence[str] | None = None) -> int:
    """Runs one node until it has finished or SIGINT or SIGTERM comes. Returns the exit code: 0, or 1 for an error.

    One SingleThreadedExecutor: the MultiThreadedExecutor of rclpy spins in a busy loop and loses images.
    """
    starting = True

    def stop(signum: int, frame: FrameType | None) -> None:
        """Before it spins, an exception ends a slow start; after that rclpy, which heard the signal too, ends it."""
        if starting:
            _ignore_signals()
            raise KeyboardInterrupt

    node: Program | None = None
    code, ended = 0, True
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        rclpy.init(args=list(args) if args is not None else None)
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(cast(Node, node))
        node.start()
        starting = False
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException, Finished):
        pass
    except InstformerError as error:
        code = 1
        if node is None:
            print(f"error: {error}", file=sys.stderr)
        else:
            node.get_logger().fatal(str(error))
    finally:
        # Under `ros2 launch` a Ctrl-C arrives twice (from the terminal and from launch), the second in this clean-up.
        starting = False
        _ignore_signals()
        if node is not None:
            ended = node.close()
            node.destroy_node()
        rclpy.try_shutdown(uninstall_handlers=False)
    if not ended:
        # A thread is deep in the network. Leaving Python under it would abort the process, so leave without that.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _ignore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
