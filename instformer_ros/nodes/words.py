"""The input topic of words, heard from ordinary and from latched publishers alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.subscription import Subscription

from instformer_ros.msg import Vocabulary
from instformer_ros.ros import qos
from instformer_ros.ros.messages import vocabulary_names

_REMEMBERED = 256  # publishers


class WordsTopic:
    """Subscribes twice to ``vocabulary`` and passes every message on once.

    A transient-local subscriber never hears an ordinary (volatile) publisher such as ``ros2 topic pub``, a volatile one
    never hears what a latched publisher said before; the live messages of a latched publisher arrive at both. So of
    each publisher only what it said later than the last message taken from it counts: the rest is a second copy, or
    old news.
    """

    def __init__(self, node: Node, callback: Callable[[Sequence[str]], None]) -> None:
        self._node = node
        self._callback = callback
        self._subscriptions: list[Subscription[Vocabulary]] = []
        # Publisher -> stamp. Kept when closed, so that the node, configured again, takes no latched message for new.
        # Only of the latest publishers, as every `ros2 topic pub` is another one.
        self._taken: OrderedDict[bytes, int] = OrderedDict()

    def open(self) -> None:
        """Subscribes."""
        # An ordinary publisher does not suit the latched subscription, as intended: no warning for that.
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        for profile in (qos.VOLATILE, qos.LATCHED):
            self._subscriptions.append(
                self._node.create_subscription(Vocabulary, "vocabulary", self._take, profile, event_callbacks=silent)
            )

    def close(self) -> None:
        """Ends the subscriptions."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _take(self, message: Vocabulary, info: Mapping[str, Any]) -> None:
        # Before Kilted rclpy does not say who published; the publishers' clocks have to agree there.
        publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
        stamp = int(info["source_timestamp"])
        if stamp > self._taken.get(publisher, 0):
            self._taken[publisher] = stamp
            self._taken.move_to_end(publisher)
            if len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)
            self._callback(vocabulary_names(message))
