"""Starts a node, spins it in one thread and ends it cleanly, whatever the signal and how often it comes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, cast

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node

from instformer_ros.memory import keep_freed_memory
from instformer_ros.ros.throttle import Throttle
from instformer_ros.structures import InstformerError
from instformer_ros.threads import wait_without_spinning

_HOPELESS = 100  # errors in a row, with nothing done between them, after which an executor is given up
_OURS = str(Path(__file__).resolve().parents[1])


class Finished(Exception):
    """Raised in a callback: the node has done its work and the process shall end."""


class Program(Protocol):
    """A node that can be run. It is a :class:`rclpy.node.Node` as well."""

    def start(self) -> None:
        """Called in the executor's thread before it spins."""

    def close(self) -> object:
        """Ends the node's work and threads."""

    def destroy_node(self) -> None: ...

    def get_logger(self) -> Any: ...


def run(make_node: Callable[[], Program], args: Sequence[str] | None = None) -> NoReturn:
    """Runs one node until it has finished or SIGINT or SIGTERM comes, then ends the process: code 0, or 1 for an error.

    One SingleThreadedExecutor: the MultiThreadedExecutor of rclpy spins in a busy loop and loses images.
    """
    if not hasattr(Node, "add_post_set_parameters_callback"):
        print("error: this ROS 2 is too old for instformer_ros: use Jazzy or newer", file=sys.stderr)
        raise SystemExit(1)
    starting = True
    keep_freed_memory()
    wait_without_spinning()

    def stop(signum: int, frame: FrameType | None) -> None:
        """Before it spins, an exception ends a slow start; after that rclpy, which heard the signal too, ends it."""
        if starting:
            _ignore_signals()
            raise KeyboardInterrupt

    node: Program | None = None
    executor: SingleThreadedExecutor | None = None
    code = 0
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        _init(args)
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(cast(Node, node))
        node.start()
        starting = False
        _spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException, Finished):
        pass
    except InstformerError as error:
        code = 1
        if node is None:
            print(f"error: {error}", file=sys.stderr)
        else:
            node.get_logger().fatal(str(error))
    except Exception:
        if rclpy.ok():  # else a callback was at work when the signal came, and met closed doors
            raise
    finally:
        # Under `ros2 launch` a Ctrl-C arrives twice (from the terminal and from launch), the second in this clean-up.
        starting = False
        _ignore_signals()
        if node is not None:
            node.close()
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown(uninstall_handlers=False)
    # A lifecycle node's state machine keeps the middleware alive until it is gone itself; only then do the other nodes
    # learn that this one has left, and only then is its shared memory removed.
    node = executor = None
    gc.collect()
    # Python's own end would take torch apart, a second of work and ten on a busy robot, while `ros2 launch` kills after
    # five; and it aborts if a thread is still deep in the network.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def parting_logger(node: Node) -> Any:
    """The logger for a node's last words.

    Once a signal has ended the context, the node's own one can only complain that it does not reach /rosout.
    """
    return node.get_logger() if node.context.ok() else get_logger(f"{node.get_name()}_node")


def _spin(executor: SingleThreadedExecutor, node: Program) -> None:
    """Spins until the context ends. What is raised over one message or call costs that one alone, and a line.

    rclpy lets a client's nonsense through to its own callbacks, a parameter of a type that there is not, say, and ends
    the executor by the exception.
    """
    complaints, in_a_row = Throttle(), 0
    while rclpy.ok():
        try:
            executor.spin_once()
            in_a_row = 0
        except (InstformerError, Finished, ExternalShutdownException):
            raise
        except Exception as error:
            in_a_row += 1
            if not rclpy.ok() or in_a_row >= _HOPELESS:
                raise
            line = " ".join(f"{type(error).__name__}: {error}".split())
            text = complaints(type(error).__name__, f"a message or call could not be served: {line}")
            if text is None:
                continue
            if _is_ours(error):
                node.get_logger().error(text + "\n" + "".join(traceback.format_exception(error)))
            else:
                node.get_logger().warning(text)


def _is_ours(error: Exception) -> bool:
    """Whether a function of this package had to do with it, other than by spinning."""
    files = {str(Path(frame.filename).resolve()) for frame in traceback.extract_tb(error.__traceback__)}
    return any(file.startswith(_OURS) for file in files - {str(Path(__file__).resolve())})


def _init(args: Sequence[str] | None) -> None:
    """Raises InstformerError for ROS arguments that are no good: a parameter file that is not there, say."""
    try:
        rclpy.init(args=list(args) if args is not None else None)
    except RuntimeError as error:  # of rclpy's kinds, which have no public names
        reason = " ".join(str(error).split(", at ")[0].split())  # without the places in the sources of rcl
        if type(error).__name__ == "UnknownROSArgsError":
            reason = f"{reason} is unknown; see https://docs.ros.org, 'Passing ROS arguments to nodes'"
        raise InstformerError(f"ROS arguments: {reason}") from None


def _ignore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
