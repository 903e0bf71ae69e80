"""What the demo sees and keeps: a node that listens to the camera and to the openvis node, and the files made of it."""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from instformer_ros.draw import contact_sheet
from instformer_ros.msg import Instance, InstanceArray
from instformer_ros.ros import images
from instformer_ros.structures import InstformerError

SEEN = (Instance.STATE_NEW, Instance.STATE_TRACKED)
SHEET_PICTURES, SHEET_COLUMNS = 12, 4
# Deep: it is the one listener that must not lose a message, since it counts them.
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)

Pixels = NDArray[np.uint8]


@dataclass
class Track:
    """What was seen of one track, over all answers."""

    track_id: int
    first: int  # frame numbers, counted from 0 over the frames sent
    last: int
    seen: int = 0  # answers that hold it
    names: Counter[str] = field(default_factory=Counter)
    score_sum: float = 0.0

    @property
    def name(self) -> str:
        """The name it had most often; empty if class-agnostic."""
        return self.names.most_common(1)[0][0]

    @property
    def score(self) -> float:
        """Its mean score where it was seen."""
        return self.score_sum / self.seen


class Recorder(Node):
    """Counts frames and answers by their stamps, keeps the instances, writes the overlays to a video as they come."""

    def __init__(self, image_topic: str, openvis: str, video: Path, fps: float, **node_arguments: Any) -> None:
        """``image_topic`` is the camera's, ``openvis`` the other node's name; the overlays go to ``video``."""
        super().__init__("demo_recorder", **node_arguments)
        self.sent: dict[int, int] = {}  # stamp of a frame in nanoseconds -> its number
        self.answers: dict[int, InstanceArray] = {}  # by stamp
        self.camera_sent = 0  # what the camera itself says in the end: frames that did not reach this node count too
        self.overlays = 0
        self._image_topic = self.resolve_topic_name(image_topic)
        self._path, self._fps = video, fps
        self._writer: cv2.VideoWriter | None = None
        self._before: tuple[int, Pixels] | None = None  # the number and picture of the latest overlay
        self.create_subscription(InstanceArray, f"{openvis}/instances", self._on_instances, RELIABLE)
        self.create_subscription(Image, f"{openvis}/overlay", self._on_overlay, RELIABLE)

    # --- While it runs ------------------------------------------------------------------------------------------------

    def openvis_listens(self) -> bool:
        """Whether somebody listens to the camera. To be asked before :meth:`watch_images`."""
        return self.count_subscribers(self._image_topic) > 0

    def watch_images(self) -> None:
        """Starts to count the frames."""
        # Raw: of the frames only the stamp matters, and unpacking every picture would cost more than all the rest.
        self.create_subscription(Image, self._image_topic, self._on_image, RELIABLE, raw=True)

    def cameras(self) -> int:
        """How many publishers the image topic has."""
        return self.count_publishers(self._image_topic)

    def complete(self) -> bool:
        """Whether the newest frame is answered and drawn. As the newest frame wins, no answer is to come after that."""
        newest = max(self.sent, default=None)
        return newest is not None and newest in self.answers and self.overlays >= len(self.answers)

    def _on_image(self, message: bytes) -> None:
        little = message[1] & 1  # CDR: four bytes of encapsulation, then the header's stamp
        seconds, nanoseconds = struct.unpack_from("<iI" if little else ">iI", message, 4)
        self.sent.setdefault(seconds * 10**9 + nanoseconds, len(self.sent))

    def _on_instances(self, message: InstanceArray) -> None:
        self.answers[_nanoseconds(message)] = message

    def _on_overlay(self, message: Image) -> None:
        stamp = _nanoseconds(message)
        number = self.sent.setdefault(stamp, len(self.sent))
        picture = images.from_message(message)
        if self._writer is None:
            height, width = picture.shape[:2]
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, (width, height))
            if not self._writer.isOpened():
                raise InstformerError(f"cannot write {self._path}: choose another folder with OUTPUT=")
        if self._before is not None:  # dropped frames show the picture before them, so that the video keeps real time
            for _ in range(number - self._before[0] - 1):
                self._write(self._before[1])
        self._write(picture)
        self._before = (number, picture)
        self.overlays += 1

    def _write(self, picture: Pixels) -> None:
        assert self._writer is not None
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))

    # --- At the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the video file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def tracks(self) -> list[Track]:
        """All tracks, by id."""
        tracks: dict[int, Track] = {}
        for stamp, answer in sorted(self.answers.items()):
            number = self.sent.get(stamp, -1)
            for instance in answer.instances:
                if instance.state not in SEEN:
                    continue
                track = tracks.setdefault(instance.track_id, Track(instance.track_id, number, number))
                track.last = number
                track.seen += 1
                track.names[instance.class_name] += 1
                track.score_sum += instance.score
        return sorted(tracks.values(), key=lambda track: track.track_id)

    def counts(self) -> dict[str, int]:
        """Frames sent, answered and dropped, and overlays received."""
        answered = len(self.answers)
        sent = max(self.camera_sent, len(self.sent.keys() | self.answers.keys()))
        return {"sent": sent, "answered": answered, "dropped": sent - answered, "overlays": self.overlays}


def _nanoseconds(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def write_instances(path: Path, recorder: Recorder, about: dict[str, Any]) -> None:
    """Everything that was answered, as JSON: ``about``, the counts, the tracks, and every frame's instances."""
    frames = [
        {
            "frame": recorder.sent.get(stamp),
            "stamp": stamp,
            "height": answer.height,
            "width": answer.width,
            "vocabulary_version": answer.vocabulary_version,
            "instances": [_instance(instance, answer) for instance in answer.instances],
        }
        for stamp, answer in sorted(recorder.answers.items())
    ]
    tracks = [
        {
            "track_id": track.track_id,
            "name": track.name,
            "score": round(track.score, 4),
            "first_frame": track.first,
            "last_frame": track.last,
            "frames_seen": track.seen,
        }
        for track in recorder.tracks()
    ]
    content = {**about, "counts": recorder.counts(), "tracks": tracks, "frames": frames}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _instance(instance: Instance, answer: InstanceArray) -> dict[str, Any]:
    box = instance.box
    return {
        "track_id": instance.track_id,
        "state": instance.state,
        "class_index": instance.class_index,
        "class_name": instance.class_name,
        "score": round(instance.score, 4),
        "objectness": round(instance.objectness, 4),
        "box": [box.x_offset, box.y_offset, box.width, box.height],
        "mask": {"size": [answer.height, answer.width], "counts": bytes(instance.mask).decode("ascii")},
    }


def write_contact_sheet(path: Path, video: Path) -> None:
    """Pictures evenly spread over the video, with their frame numbers. The video is read again, as it may be long."""
    capture = cv2.VideoCapture(str(video))
    length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = {round(i) for i in np.linspace(0, max(0, length - 1), min(SHEET_PICTURES, max(1, length)))}
    pictures: list[Pixels] = []
    captions: list[str] = []
    for number in range(length):
        if not capture.grab():
            break
        if number in wanted:
            _, picture = capture.retrieve()
            pictures.append(np.asarray(picture[..., ::-1], dtype=np.uint8))
            captions.append(f"frame {number}")
    capture.release()
    if not pictures:
        raise InstformerError(f"{video} holds no picture: run the demo again")
    sheet = contact_sheet(pictures, SHEET_COLUMNS, captions)
    cv2.imwrite(str(path), np.ascontiguousarray(sheet[..., ::-1]))
