"""Quality of service: which policies our topics have, and an image subscription that suits its publishers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from instformer_ros.structures import InstformerError

RELIABILITIES = ("auto", "reliable", "best_effort")  # values of the image_reliability parameter
_LOOK_AGAIN = 1.0  # seconds; only a back-stop, events tell of new publishers at once
_POLICIES = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}

# Told again to everybody who comes later.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Words sent by an ordinary publisher (`ros2 topic pub`), which a transient-local subscriber would never hear.
VOLATILE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
RESULTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
OVERLAY = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)


def image_qos(reliability: ReliabilityPolicy, depth: int = 5) -> QoSProfile:
    """For images. The depth lets a reader survive a stall of some frames without losing count of them."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=DurabilityPolicy.VOLATILE
    )


def overridable(reliability: bool = True) -> QoSOverridingOptions:
    """Lets the user override the policies of a topic: ``qos_overrides./TOPIC.publisher.depth`` and the like."""
    kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, *([QoSPolicyKind.RELIABILITY] if reliability else [])]
    return QoSOverridingOptions(kinds)


@contextmanager
def named_overrides(topic: str) -> Iterator[None]:
    """Making a topic with overrides that are no good is an InstformerError, where rclpy has errors of many kinds."""
    try:
        yield
    except (ParameterException, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InstformerError(f"topic '{topic}' cannot be made: {reason}; look at its qos_overrides") from error


def reliability_policy(name: str) -> ReliabilityPolicy:
    """``reliable`` or ``best_effort`` as a policy."""
    return _POLICIES[name]


def choose_reliability(
    wish: str, offered: Iterable[ReliabilityPolicy], current: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
) -> ReliabilityPolicy:
    """The reliability to subscribe with.

    ``auto`` is reliable if every publisher offers it, else best effort, and ``current`` while there is none: a
    best-effort reader of a reliable publisher loses almost every large image (fragments are never sent again), a
    reliable reader of a best-effort publisher hears nothing at all.
    """
    if wish != "auto":
        return _POLICIES[wish]
    policies = list(offered)
    if not policies:
        return current
    every = all(policy == ReliabilityPolicy.RELIABLE for policy in policies)
    return ReliabilityPolicy.RELIABLE if every else ReliabilityPolicy.BEST_EFFORT


class ImageSubscription:
    """Subscribes to images, compressed or not, and changes its reliability when the publishers call for it.

    It starts reliable, so that nothing of a reliable camera is lost; a best-effort camera raises an event on
    discovery, which makes it change over at once. All of its work is done in the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        callback: Callable[[Any], None],
        wish: str = "auto",
        message_type: type[Any] = Image,
    ) -> None:
        self._node = node
        self._topic = topic
        self._type = message_type
        self._callback = callback
        self._wish = wish
        self.reliability = choose_reliability(wish, self._offered(node.resolve_topic_name(topic)))
        self._subscription = self._subscribe()  # may fail, so nothing that calls back is made before
        # A subscription must not be destroyed within its own event, so events only ring this bell.
        self._bell = node.create_guard_condition(self.reconsider)
        self._timer = node.create_timer(_LOOK_AGAIN, self.reconsider, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def topic_name(self) -> str:
        """The full name of the topic."""
        return str(self._subscription.topic_name)

    @property
    def publishers(self) -> int:
        """How many publishers of images are known on the topic."""
        return len(self._offered(self.topic_name))

    def set_wish(self, wish: str) -> None:
        """Takes another of :data:`RELIABILITIES`, with immediate effect."""
        self._wish = wish
        self.reconsider()

    def reconsider(self) -> None:
        """Looks at the publishers and subscribes anew if another reliability suits them better."""
        wanted = choose_reliability(self._wish, self._offered(self.topic_name), self.reliability)
        if wanted != self.reliability:
            self._node.get_logger().info(f"'{self.topic_name}': subscribing {_name(wanted)} to suit its publishers")
            self._node.destroy_subscription(self._subscription)
            self.reliability = wanted
            self._subscription = self._subscribe()

    def close(self) -> None:
        """Ends the subscription."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_guard_condition(self._bell)
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> Subscription[Any]:
        events = SubscriptionEventCallbacks(
            matched=lambda _: self._bell.trigger(), incompatible_qos=self._on_incompatible
        )
        with named_overrides(self._topic):
            return self._node.create_subscription(
                self._type,
                self._topic,
                self._callback,
                image_qos(self.reliability),
                event_callbacks=events,
                qos_overriding_options=overridable(reliability=False),  # image_reliability says that
            )

    def _offered(self, topic_name: str) -> list[ReliabilityPolicy]:
        publishers = self._node.get_publishers_info_by_topic(topic_name)
        wanted = f"sensor_msgs/msg/{self._type.__name__}"
        return [p.qos_profile.reliability for p in publishers if p.topic_type == wanted]

    def _on_incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._wish == "auto":
            self._bell.trigger()
            return
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        offered = ", ".join(sorted({_name(p) for p in self._offered(self.topic_name)})) or "unknown"
        self._node.get_logger().warning(
            f"'{self.topic_name}': a publisher's {policy} does not fit and nothing is received from it: it offers "
            f"{offered}, this node asks for {_name(self.reliability)}; set image_reliability to auto"
        )


def _name(policy: ReliabilityPolicy) -> str:
    return "best effort" if policy == ReliabilityPolicy.BEST_EFFORT else "reliable"
