"""The instances as boxes and labels for RViz, in the colours of the overlay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from instformer_ros.draw import label_text, track_colour
from instformer_ros.structures import TrackedFrame, TrackState
from instformer_ros.surfaces import Surface

OPTICAL_UP = (0.0, -1.0, 0.0)  # REP-103: y points down in a camera's optical frame
BODY_UP = (0.0, 0.0, 1.0)  # z points up everywhere else
_LIFETIME = Duration(sec=3)  # should the node fall silent; a track that ends is deleted at once
_THINNEST = 0.01  # metres; RViz does not draw a box without thickness
_TEXT = 0.06  # metres
_LARGEST_ID = 2**31 - 1


class TrackMarkers:
    """Makes the markers of one camera, frame by frame, and remembers which are shown so that it can delete them.

    Two for each track, with its id for theirs: a box (namespace ``boxes``) and above it a text (``labels``).
    """

    def __init__(self) -> None:
        self._shown: set[int] = set()

    def array(
        self,
        frame: TrackedFrame,
        surfaces: Mapping[int, Surface],
        header: Header,
        up: tuple[float, float, float] = OPTICAL_UP,
    ) -> MarkerArray:
        """The markers of a frame. A coasting track keeps its box where it was; that of a track that is gone is deleted.

        Args:
            frame: What the engine answered.
            surfaces: By track id.
            header: Of the markers; its frame is the surfaces'.
            up: The direction of "above" there.
        """
        markers: list[Marker] = []
        alive: set[int] = set()
        for instance in frame.instances:
            if instance.state == TrackState.TERMINATED:
                continue
            alive.add(instance.track_id)
            surface = surfaces.get(instance.track_id)
            if surface is None:
                continue
            self._shown.add(instance.track_id)
            low, high = surface.bounds
            box = _marker(header, "boxes", instance.track_id, Marker.CUBE, 0.35)
            box.pose = Pose(position=Point(**_xyz((low + high) / 2)))
            box.scale = Vector3(**_xyz(np.maximum(high - low, _THINNEST)))
            label = _marker(header, "labels", instance.track_id, Marker.TEXT_VIEW_FACING, 1.0)
            above = (low + high) / 2 + np.array(up) * ((high - low) / 2 + _TEXT)
            label.pose = Pose(position=Point(**_xyz(above)))
            label.scale.z = _TEXT
            label.text = label_text(instance)
            markers += [box, label]
        for track_id in self._shown - alive:
            markers += [_deletion(header, namespace, track_id) for namespace in ("boxes", "labels")]
        self._shown &= alive
        return MarkerArray(markers=markers)


def _marker(header: Header, namespace: str, track_id: int, kind: int, alpha: float) -> Marker:
    red, green, blue = (value / 255.0 for value in track_colour(track_id))
    return Marker(
        header=header,
        ns=namespace,
        id=track_id & _LARGEST_ID,
        type=kind,
        action=Marker.ADD,
        color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
        lifetime=_LIFETIME,
    )


def _deletion(header: Header, namespace: str, track_id: int) -> Marker:
    return Marker(header=header, ns=namespace, id=track_id & _LARGEST_ID, action=Marker.DELETE)


def _xyz(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip("xyz", values.tolist(), strict=True))
