"""Depth images and camera calibration -> numpy, in the units of REP-118."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image

from instformer_ros.structures import InstformerError
from instformer_ros.surfaces import Depth

_TYPES: dict[str, np.dtype[Any]] = {"32fc1": np.dtype("f4"), "16uc1": np.dtype("u2"), "mono16": np.dtype("u2")}


def from_messages(depth: Image, info: CameraInfo, height: int, width: int) -> Depth:
    """A depth image with its calibration, for a picture of ``height`` x ``width``.

    Raises InstformerError, one line, for an encoding that is no depth, data cut off, a size other than the picture's
    (the depth is not registered to the picture then) and a camera that is not calibrated.
    """
    metres = depth_metres(depth)
    if metres.shape != (height, width):
        raise InstformerError(
            f"depth is {depth.width}x{depth.height} and the image {width}x{height}: give the depth that is registered "
            "to the image, such as 'aligned_depth_to_color/image_raw'"
        )
    return Depth(metres, *pinhole(info))


def depth_metres(message: Image) -> NDArray[np.float32]:
    """(H, W) float32 metres, NaN where nothing was measured.

    REP-118: ``32FC1`` is metres, NaN and infinity are no measurement; ``16UC1`` (some drivers say ``mono16``) is
    millimetres, 0 is none. Some drivers write 0 in ``32FC1`` as well; nothing is that near, so it is none too.

    Raises InstformerError, one line, for another encoding, zero size, a step too short or data cut off.
    """
    kind = _TYPES.get(message.encoding.lower())
    if kind is None:
        raise InstformerError(
            f"depth encoding {message.encoding[:40]!r} is not known: use 32FC1 (metres) or 16UC1 (millimetres)"
        )
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if not height or not width or step < width * kind.itemsize or data.size < height * step:
        raise InstformerError(
            f"depth of {width}x{height} '{message.encoding}' with step {step} has {data.size} bytes, which does not "
            "fit: the driver or the transport cut it off"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * kind.itemsize]
    values = np.ascontiguousarray(rows).view(kind.newbyteorder(">" if message.is_bigendian else "<"))
    if kind.kind == "u":
        metres = values.astype(np.float32)
        metres *= np.float32(0.001)
    else:
        metres = values.astype(np.float32)
    metres[~((metres > 0) & (metres < np.inf))] = np.nan
    return metres


def pinhole(info: CameraInfo) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels: of the projection matrix P (rectified images, REP-104), of K where P is not filled in.

    Raises InstformerError if the camera is not calibrated.
    """
    fx, cx, fy, cy = info.p[0], info.p[2], info.p[5], info.p[6]
    if fx == 0.0:
        fx, cx, fy, cy = info.k[0], info.k[2], info.k[4], info.k[5]
    if not (fx > 0.0 and fy > 0.0 and np.isfinite([fx, fy, cx, cy]).all()):
        raise InstformerError(
            f"camera_info of '{info.header.frame_id}' has no focal length: calibrate the camera, or have its driver "
            "publish its calibration"
        )
    return float(fx), float(fy), float(cx), float(cy)
