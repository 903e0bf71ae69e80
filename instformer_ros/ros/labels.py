"""The label image: one picture that holds all masks of a frame."""

from __future__ import annotations

import array
import sys

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instformer_ros.masks import label_image
from instformer_ros.structures import TrackedFrame


def label_message(frame: TrackedFrame, header: Header) -> Image:
    """A ``mono16`` image of the frame's size: the ``label_value`` of the instance at each pixel, 0 where there is none.

    Larger masks are painted first, so that a small one on a large one stays visible. Where masks overlap, the masks in
    the InstanceArray are the authority.
    """
    seen = [instance for instance in frame.instances if instance.box[2]]
    labels = label_image([i.rle for i in seen], [i.label_value for i in seen], frame.height, frame.width)
    message = Image(header=header, height=frame.height, width=frame.width, encoding="mono16", step=2 * frame.width)
    message.is_bigendian = int(sys.byteorder == "big")
    message.data = array.array("B", labels.tobytes())
    return message
