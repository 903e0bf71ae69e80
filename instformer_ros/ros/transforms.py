"""Poses of other frames as seen from a target frame, from tf2 where it is installed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from instformer_ros.ros.throttle import Throttle
from instformer_ros.structures import InstformerError

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

_PATIENCE = Duration(nanoseconds=50_000_000)  # transforms often come a little later than the image


class Pose(NamedTuple):
    """Takes points of one frame to another: ``rotation @ point + translation``."""

    rotation: NDArray[np.float64]  # (3, 3)
    translation: NDArray[np.float64]  # (3,) metres


class TargetFrame:
    """Looks up where the cameras are in the frame ``name`` (listens to ``/tf`` and ``/tf_static``)."""

    def __init__(self, node: Node, name: str) -> None:
        """Raises InstformerError where tf2_ros is not installed."""
        if tf2_ros is None:
            raise InstformerError(
                f"target_frame '{name}' needs tf2_ros, which is not installed: install ros-$ROS_DISTRO-tf2-ros-py, or "
                "leave target_frame empty for the camera's own frame"
            )
        self.name = name
        self._node = node
        self._buffer = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        self._complaints = Throttle()
        self._patience = _PATIENCE

    def pose(self, header: Header) -> Pose | None:
        """The pose of the header's frame at the header's stamp; None, with a warning in the log, where it is unknown.

        Waits a moment for a transform that is on its way, but not again and again for one that never comes. Call it
        from another thread than the executor's, which brings the transforms.
        """
        try:
            found = self._buffer.lookup_transform(
                self.name, header.frame_id, Time.from_msg(header.stamp), timeout=self._patience
            ).transform
        except (tf2_ros.TransformException, ValueError) as error:  # ValueError: a stamp before 1970
            self._patience = Duration()
            text = self._complaints(
                header.frame_id,
                f"no 3D output: '{header.frame_id}' has no known pose in target_frame '{self.name}' at the image's "
                f"stamp ({error}); publish that transform, or leave target_frame empty",
            )
            if text is not None:
                self._node.get_logger().warning(text)
            return None
        self._patience = _PATIENCE
        turn, shift = found.rotation, found.translation
        rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
        return Pose(rotation, np.array([shift.x, shift.y, shift.z]))

    def close(self) -> None:
        """Ends the subscriptions."""
        self._listener.unregister()
