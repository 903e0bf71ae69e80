"""An image and the depth that was measured with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

try:
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter
except ImportError:  # not among the ROS packages of PyPI
    ApproximateTimeSynchronizer = SimpleFilter = None

APPROXIMATE = ApproximateTimeSynchronizer is not None  # whether stamps may differ
_KEPT = 10  # messages of each kind that wait for their partner


class Pairing:
    """Calls back with every image and depth whose stamps agree.

    By message_filters where it is installed, so that the stamps may differ by ``slop`` seconds; else they have to be
    equal.
    """

    def __init__(self, callback: Callable[[Any, Any], None], slop: float) -> None:
        self._callback = callback
        self._waiting: tuple[OrderedDict[tuple[int, int], Any], ...] = (OrderedDict(), OrderedDict())
        if APPROXIMATE:
            self._filters = SimpleFilter(), SimpleFilter()
            self._synchronizer = ApproximateTimeSynchronizer(self._filters, _KEPT, slop)
            self._synchronizer.registerCallback(callback)

    def image(self, message: Any) -> None:
        """Takes an image."""
        self._take(0, message)

    def depth(self, message: Any) -> None:
        """Takes a depth image."""
        self._take(1, message)

    def _take(self, kind: int, message: Any) -> None:
        if APPROXIMATE:
            self._filters[kind].signalMessage(message)
            return
        stamp = message.header.stamp.sec, message.header.stamp.nanosec
        mine, others = self._waiting[kind], self._waiting[1 - kind]
        partner = others.pop(stamp, None)
        if partner is None:
            mine[stamp] = message
            if len(mine) > _KEPT:
                mine.popitem(last=False)
        else:
            self._callback(*((message, partner) if kind == 0 else (partner, message)))
