"""Writes results as a bag: one mcap file that ``ros2 bag play``, RViz and Foxglove open. No ROS needed.

``mcap`` writes the file and ``rosbags`` the messages (from PyPI, the extra ``bags``), by the definitions in msg/.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.source import FrameHeader
from instformer_ros.paths import message_definitions
from instformer_ros.structures import InstformerError, TrackedFrame, TrackedInstance, Vocabulary

PACKAGE = "instformer_ros"
INSTANCES, OVERLAY, VOCABULARY = "/openvis/instances", "/openvis/overlay/compressed", "/openvis/vocabulary"
_QUALITY = 90  # of the overlay's JPEG, per cent; raw pictures would fill gigabytes in minutes
_SEPARATOR = "=" * 80 + "\n"  # between the definitions of a schema


class BagWriter:
    """A context manager; the file is whole or, after an error, absent.

    Topics are those of the node: :data:`INSTANCES` and, as JPEG, :data:`OVERLAY`, under the images' own headers, and
    once, before them, :data:`VOCABULARY`. The times of recording are the images' own, so that the file plays in step
    with the bag that they came from.

    Raises:
        InstformerError: the packages are not installed; the name does not end in .mcap; the file exists (a recording
            is never overwritten) or its folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".mcap":
            raise InstformerError(f"output bag '{path}': is written as mcap; let its name end in .mcap")
        if path.exists():
            raise InstformerError(f"output bag '{path}': exists already; remove it or choose another name")
        try:
            from mcap.writer import Writer
            from rosbags.typesys import Stores, get_types_from_msg, get_typestore
        except ImportError as error:
            raise InstformerError(
                f"output bag '{path}': needs packages mcap and rosbags ({error}); pip install 'instformer_ros[bags]'"
            ) from error
        self._store: Any = get_typestore(Stores.LATEST)
        self._own = {
            f"{PACKAGE}/msg/{file.stem}": file.read_text(encoding="utf-8")
            for file in sorted(message_definitions().glob("*.msg"))
        }
        types: dict[str, Any] = {}
        for name, text in self._own.items():
            types.update(get_types_from_msg(text, name))
        self._store.register(types)
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._channels: dict[str, tuple[int, str]] = {}  # topic -> channel and type
        self._vocabulary: Vocabulary | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")
        except OSError as error:
            raise self._unwritable(error) from error
        self._writer = Writer(self._file)
        self._writer.start(profile="ros2", library=PACKAGE)
        self._open_topic(VOCABULARY, f"{PACKAGE}/msg/Vocabulary")
        self._open_topic(INSTANCES, f"{PACKAGE}/msg/InstanceArray")
        self._open_topic(OVERLAY, "sensor_msgs/msg/CompressedImage")

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._writer.finish()
            self._file.close()
            if error is None:
                os.replace(self._part, self._path)
        except OSError as full:
            raise self._unwritable(full) from full
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, header: FrameHeader, frame: TrackedFrame, drawn: NDArray[np.uint8]) -> None:
        """Adds the answer to one image and its overlay, (H, W, 3) uint8 RGB.

        Raises:
            InstformerError: the file can no longer be written.
        """
        if frame.vocabulary != self._vocabulary:
            self._vocabulary = frame.vocabulary
            words = self._make("Vocabulary", version=frame.vocabulary.version, names=list(frame.vocabulary.names))
            self._write(VOCABULARY, header, words)
        stamp = self._store.types["builtin_interfaces/msg/Time"](sec=header.sec, nanosec=header.nanosec)
        ros_header = self._store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=header.frame_id)
        array = self._make(
            "InstanceArray",
            header=ros_header,
            height=frame.height,
            width=frame.width,
            vocabulary_version=frame.vocabulary.version,
            frame_index=frame.frame_index,
            instances=[self._instance(instance) for instance in frame.instances],
        )
        self._write(INSTANCES, header, array)
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        picture = self._store.types["sensor_msgs/msg/CompressedImage"](header=ros_header, format="jpeg", data=jpeg)
        self._write(OVERLAY, header, picture)

    def _instance(self, instance: TrackedInstance) -> Any:
        x, y, width, height = instance.box
        types = self._store.types
        scores = instance.class_scores if instance.class_scores is not None else np.zeros(0)
        return self._make(
            "Instance",
            **instance.plain_fields(),
            class_scores=np.asarray(scores, np.float32),
            box=types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=x, y_offset=y, width=width, height=height, do_rectify=False
            ),
            mask_encoding=types[f"{PACKAGE}/msg/Instance"].MASK_COCO_RLE,
            mask=np.frombuffer(instance.rle["counts"], np.uint8),
            has_position=False,
            position=types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
            size=types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0),
            depth_coverage=0.0,
        )

    def _make(self, name: str, **fields: Any) -> Any:
        return self._store.types[f"{PACKAGE}/msg/{name}"](**fields)

    def _write(self, topic: str, header: FrameHeader, message: Any) -> None:
        channel, kind = self._channels[topic]
        data = bytes(self._store.serialize_cdr(message, kind))
        logged = max(0, header.logged)  # mcap knows no time before 1970
        try:
            self._writer.add_message(channel, log_time=logged, data=data, publish_time=logged)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InstformerError:
        return InstformerError(f"output bag '{self._path}': cannot be written ({error.strerror}); choose another place")

    def _open_topic(self, topic: str, kind: str) -> None:
        schema = self._writer.register_schema(kind, "ros2msg", self._definition(kind).encode())
        # No QoS is named, which plays with the default: its notation differs between distributions.
        metadata = {"offered_qos_profiles": "", "topic_type_hash": self._store.hash_rihs01(kind)}
        self._channels[topic] = self._writer.register_channel(topic, "cdr", schema, metadata), kind

    def _definition(self, kind: str) -> str:
        """The definition of a type and, below it, of all that it is made of; of our own types the very files."""
        first, *others = self._store.generate_msgdef(kind, ros_version=2)[0].split(_SEPARATOR)
        sections = [self._own.get(kind, first)]
        for section in others:
            title, _, text = section.partition("\n")
            package, _, name = title.removeprefix("MSG: ").partition("/")
            sections.append(f"{title}\n{self._own.get(f'{package}/msg/{name}', text)}")
        return _SEPARATOR.join(text if text.endswith("\n") else text + "\n" for text in sections)
