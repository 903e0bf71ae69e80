"""What a camera sends to the node: raw or compressed images, its calibration, and depth where that is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from instformer_ros.ros import depth, images
from instformer_ros.ros.frames import CameraFrame
from instformer_ros.ros.pairing import APPROXIMATE, Pairing
from instformer_ros.ros.qos import ImageSubscription
from instformer_ros.ros.throttle import Throttle
from instformer_ros.structures import InstformerError

TRANSPORTS = ("raw", "compressed")  # values of the image_transport parameter
# Best effort hears every publisher, and the message is small enough to arrive.
_INFO_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_PATIENCE = 1.0  # seconds without depth, after which images go their way alone,
_PATIENCE_IMAGES = 3  # and images: a slow camera may miss some as well
_NEVER = (-(1 << 31) - 1, 0)  # a stamp before all others
_REWOUND = 0.5  # seconds by which stamps must fall back to mean that the bag has started again


@dataclass(frozen=True)
class InputSettings:
    """What the inputs take from the parameters of the same names when the node is activated."""

    image_transport: str = "raw"
    image_reliability: str = "auto"
    use_depth: bool = False
    depth_slop: float = 0.02  # seconds


INPUT_SETTINGS = tuple(each.name for each in fields(InputSettings))


def _stamp(message: Image | CompressedImage) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


@dataclass(frozen=True)
class Arrival:
    """An image with what belongs to it, all still messages."""

    image: Image | CompressedImage
    depth: Image | None = None
    info: CameraInfo | None = None


class CameraInput:
    """The topics of one camera: ``image``, ``camera_info`` and ``depth``, below the camera's name if it has one.

    With compressed transport ``<image>/compressed`` instead, as image_transport names it, so that remapping ``image``
    is enough. All of it happens in the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        camera: str,
        settings: InputSettings,
        put: Callable[[Arrival], None],
        rewound: Callable[[float], None],
    ) -> None:
        """``put`` takes what arrives; ``rewound(seconds)`` hears that the stamps fell back, before the next ``put``."""
        self._node = node
        self._put = put
        self._rewound = rewound
        self._slop = settings.depth_slop
        self._info: CameraInfo | None = None
        self._stamp = 0.0  # of the newest image
        self._alone = False  # images do not wait for depth at present
        self._complaints = Throttle()
        self._sent_alone = _NEVER  # stamp of the newest image that was sent without depth
        prefix = f"{camera}/" if camera else ""
        topic, kind = f"{prefix}image", Image
        if settings.image_transport == "compressed":
            topic, kind = node.resolve_topic_name(topic) + "/compressed", CompressedImage
        self._subscriptions = [ImageSubscription(node, topic, self._on_image, settings.image_reliability, kind)]
        self._calibration = node.create_subscription(CameraInfo, f"{prefix}camera_info", self._on_info, _INFO_QOS)
        self._pairing: Pairing | None = None
        if settings.use_depth:
            self._pair_anew()
            self._subscriptions.append(
                ImageSubscription(node, f"{prefix}depth", self._on_depth, settings.image_reliability)
            )
            depth_topic = self._subscriptions[1].topic_name
            node.get_logger().info(f"depth from '{depth_topic}'")
            if not APPROXIMATE:
                node.get_logger().warning(
                    f"message_filters is not installed: '{depth_topic}' must have exactly the stamps of the images"
                )

    @property
    def topic_name(self) -> str:
        """The full name of the image topic."""
        return self._subscriptions[0].topic_name

    @property
    def publishers(self) -> int:
        """How many publishers of images are known."""
        return self._subscriptions[0].publishers

    @property
    def reliability(self) -> ReliabilityPolicy:
        """With which the images are subscribed to at present."""
        return self._subscriptions[0].reliability

    def set_reliability(self, wish: str) -> None:
        """``auto``, ``reliable`` or ``best_effort``, with immediate effect."""
        for subscription in self._subscriptions:
            subscription.set_wish(wish)

    def close(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()
        self._node.destroy_subscription(self._calibration)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_image(self, message: Image | CompressedImage) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        if stamp < self._stamp - _REWOUND:
            if self._pairing is not None:
                self._pair_anew()  # the old ones would wait for ever
            self._rewound(self._stamp - stamp)
        self._stamp = stamp
        if self._pairing is None:
            self._put(Arrival(message, info=self._info))
            return
        self._unpaired += 1
        alone = self._unpaired > _PATIENCE_IMAGES and time.monotonic() - self._paired > _PATIENCE
        if alone != self._alone:
            self._say_alone(alone)
        if alone:
            self._put(Arrival(message, info=self._info))
            self._sent_alone = _stamp(message)
        self._pairing.image(message)

    def _on_depth(self, message: Image) -> None:
        if self._pairing is not None:
            self._pairing.depth(message)

    def _on_pair(self, image: Image | CompressedImage, depth_image: Image) -> None:
        self._paired, self._unpaired = time.monotonic(), 0
        if _stamp(image) > self._sent_alone:  # else it, or a newer one, has been tracked already
            self._put(Arrival(image, depth_image, self._info))

    def _pair_anew(self) -> None:
        self._pairing = Pairing(self._on_pair, self._slop)
        self._paired = time.monotonic()  # the last time
        self._unpaired = 0  # images since then
        self._sent_alone = _NEVER

    def _say_alone(self, alone: bool) -> None:
        self._alone = alone
        depth_topic, log = self._subscriptions[1].topic_name, self._node.get_logger()
        if not alone:
            if text := self._complaints("again", f"depth on '{depth_topic}' again"):
                log.info(text)
        elif text := self._complaints(
            "alone", f"no depth on '{depth_topic}' with the stamps of '{self.topic_name}': images are taken without it"
        ):
            log.warning(text)


def decode(camera: str, arrival: Arrival, complain: Callable[[str, InstformerError], None]) -> CameraFrame:
    """Messages to arrays. What is wrong with depth or calibration is complained about and left out.

    Raises InstformerError for an image that is no good.
    """
    message = arrival.image
    image = images.from_compressed(message) if isinstance(message, CompressedImage) else images.from_message(message)
    height, width = image.shape[:2]
    info = arrival.info if arrival.info and (arrival.info.height, arrival.info.width) == (height, width) else None
    view = None
    if arrival.depth is not None:
        try:
            if info is None:
                raise InstformerError(
                    f"depth needs a camera_info of {width}x{height}: "
                    + ("none has come" if arrival.info is None else "there is one of another size")
                )
            view = depth.from_messages(arrival.depth, info, height, width)
        except InstformerError as error:
            complain(camera, error)
    return CameraFrame(camera, message.header, image, view, info)
