"""The camera node: publishes a video file, a folder of pictures, a webcam or ToyVIS as a camera would."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instformer_ros.data.sources import open_source
from instformer_ros.nodes.run import Finished, parting_logger, run
from instformer_ros.ros.images import Pixels, to_message
from instformer_ros.ros.parameters import Spec, Table, When
from instformer_ros.ros.qos import image_qos, reliability_policy
from instformer_ros.structures import InstformerError

PARAMETERS = Table(
    [
        Spec("source", "", "a video file, a folder of pictures, toyvis:SEED or webcam:NUMBER", When.START),
        Spec("rate", 0.0, "images a second; 0 for the source's own", When.START, least=0.0, most=1000.0),
        Spec("loop", False, "start again at the end; else the node ends with its source", When.START),
        Spec("max_frames", 0, "end, or loop, after so many images; 0 for all", When.START, least=0, most=2**31),
        Spec("frame_id", "camera", "frame_id of the images' headers (an optical frame, REP-103)", When.START),
        Spec(
            "reliability",
            "reliable",
            "how images are sent: best_effort loses large ones unless the transport is set up for them",
            When.START,
            choices=("reliable", "best_effort"),
        ),
        Spec("wait_for_subscriber", False, "send nothing until somebody listens", When.START),
    ]
)
_SETTLE = 0.5  # seconds from a subscriber's discovery to the first image: it may discover us later than we it
_LINGER = 0.3  # seconds from the last image to the end
_ACKNOWLEDGE = Duration(seconds=10)


class CameraNode(Node):
    """Publishes ``image``, and ends the process with its source unless it loops."""

    def __init__(self, **node_arguments: Any) -> None:
        """Raises InstformerError for a bad parameter."""
        super().__init__("camera", **node_arguments)
        PARAMETERS.declare(self)
        self.sent = 0
        self._heard: float | None = None if self._value("wait_for_subscriber") else float("-inf")  # since when

    def start(self) -> None:
        """Opens the source and starts to send. Raises InstformerError if there is nothing to send."""
        source = self._value("source")
        if not source:
            raise InstformerError("parameter 'source' is empty: give a video file, a folder, toyvis:SEED or webcam:N")
        self._source = open_source(source, self._value("max_frames") or None)
        self._frames: Iterator[Pixels] = iter(self._source)
        rate = self._value("rate") or self._source.fps
        profile = image_qos(reliability_policy(self._value("reliability")), depth=10)
        self._publisher = self.create_publisher(Image, "image", profile)
        self.create_timer(1.0 / rate, self._send_next, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"'{source}' goes out on '{self._publisher.topic_name}' at {rate:g} Hz")
        if self._heard is None:
            self.get_logger().info("waiting for a subscriber")

    def close(self) -> None:
        """Frees the source."""
        if hasattr(self, "_source"):
            self._source.close()
            parting_logger(self).info(f"sent {self.sent} images")

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _send_next(self) -> None:
        if not self._somebody_listens():
            return
        frame = next(self._frames, None)
        if frame is None and self._value("loop"):
            self._frames = iter(self._source)
            frame = next(self._frames, None)
        if frame is None:
            self._finish()
            raise Finished
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._value("frame_id"))
        self._publisher.publish(to_message(frame, header))
        self.sent += 1

    def _somebody_listens(self) -> bool:
        if self._heard is None and self._publisher.get_subscription_count():
            self._heard = time.monotonic()
        return self._heard is not None and time.monotonic() - self._heard >= _SETTLE

    def _finish(self) -> None:
        """Waits until the last images have arrived."""
        self._publisher.wait_for_all_acked(_ACKNOWLEDGE)
        time.sleep(_LINGER)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until its source or a signal ends it and the process."""
    run(CameraNode, args)


if __name__ == "__main__":
    main()
