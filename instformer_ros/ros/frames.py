"""One moment of one camera as the node hands it round: the picture, what was measured with it, and its header."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from instformer_ros.surfaces import Depth


@dataclass(frozen=True)
class CameraFrame:
    """What the outputs get together with the engine's answer. Nobody may write into the arrays."""

    camera: str  # its name in the ``cameras`` parameter; "" for the only one
    header: Header  # of the image message; every output carries it
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    depth: Depth | None = None  # where depth is wanted, came with this image and is of its size
    camera_info: CameraInfo | None = None  # the camera's newest, of this image's size
