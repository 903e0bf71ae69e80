"""The instances' surfaces as one PointCloud2."""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from instformer_ros.surfaces import Surface

# rgb holds the bits of 0x00RRGGBB in a float, as PCL has it.
_FIELDS = [
    *(
        PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, n in enumerate(["x", "y", "z", "rgb"])
    ),
    PointField(name="track_id", offset=16, datatype=PointField.UINT32, count=1),
]
_POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u4"), ("track_id", "u4")])


def point_cloud(surfaces: Mapping[int, Surface], image: NDArray[np.uint8], header: Header) -> PointCloud2:
    """The points of all surfaces, by track id: x, y, z in metres in the header's frame, rgb of the picture, track_id.

    Unordered (height 1) and dense. A pixel that lies in the masks of two instances is there twice.

    Args:
        surfaces: By track id.
        image: (H, W, 3) RGB, the picture that the surfaces' pixels count in.
        header: Of the message; its frame is the surfaces'.
    """
    points = np.empty(sum(len(surface.points) for surface in surfaces.values()), _POINT)
    start = 0
    for track_id, surface in surfaces.items():
        part = points[start : start + len(surface.points)]
        part["x"], part["y"], part["z"] = surface.points.T
        colours = image[surface.pixels[:, 0], surface.pixels[:, 1]].astype(np.uint32)
        part["rgb"] = colours[:, 0] << 16 | colours[:, 1] << 8 | colours[:, 2]
        part["track_id"] = track_id
        start += len(part)
    message = PointCloud2(header=header, height=1, width=len(points), fields=_FIELDS, is_dense=True)
    message.is_bigendian = sys.byteorder == "big"
    message.point_step, message.row_step = _POINT.itemsize, _POINT.itemsize * len(points)
    message.data = array.array("B", points.tobytes())
    return message
