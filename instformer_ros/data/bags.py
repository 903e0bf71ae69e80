"""Frames out of a rosbag2 without ROS: sqlite3 or mcap, compressed or not, raw or compressed images.

``rosbags`` from PyPI (the extra ``bags``) opens the file and takes the messages apart. Message definitions that a bag
holds are not used: the two image types are the same in all ROS 2, and code made from a foreign file is never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from instformer_ros.data.source import DEFAULT_FPS, FrameHeader, Image, Source
from instformer_ros.pixels import decompress, to_rgb
from instformer_ros.structures import InstformerError, printable

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Reader

FILES = (".mcap", ".db3")
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_LISTED = 20  # topics of a bag in an error
_TIMED = 31  # messages from whose times the frame rate is read


def is_bag(path: Path) -> bool:
    """Whether something is there that is meant to be a rosbag2: a storage file, or a folder with one."""
    if not path.is_dir():
        return path.suffix.lower() in FILES and path.exists()
    return any(file.name == "metadata.yaml" or file.suffix.lower() in FILES for file in path.iterdir())


class BagSource(Source):
    """The images of one topic, in the order in which they were recorded.

    Args:
        path: The bag's folder, or a single .mcap or .db3 file.
        topic: With or without the leading slash; "" takes the only topic of images that there is.
        max_frames: Stop after that many; None takes all.

    Raises:
        InstformerError: the package ``rosbags`` is not installed; the bag is cut off or damaged; the topic is not in it
            (the topics that are get listed), holds no images or no message; the first image is no good.
    """

    def __init__(self, path: Path, topic: str, max_frames: int | None) -> None:
        self._path = path
        self._open = ExitStack()
        try:
            with _reading(path):
                self._reader, self._types = _open(path, self._open)
                self._connections = _choose(path, self._reader.connections, topic)
                self.topic = self._connections[0].topic
                times = [time for _, time, _ in islice(self._reader.messages(self._connections), _TIMED)]
                count = sum(connection.msgcount for connection in self._connections)
            if not times:
                raise InstformerError(f"bag '{path}': topic '{_shown(self.topic)}' holds no message; give another one")
            gaps = [after - before for before, after in pairwise(times) if after > before]
            super().__init__(path.stem, 1e9 / median(gaps) if gaps else DEFAULT_FPS, count or None, max_frames)
            next(self._frames())
        except BaseException:
            self._open.close()
            raise

    def _frames(self) -> Iterator[tuple[str, Image]]:
        with _reading(self._path):
            for index, (connection, logged, data) in enumerate(self._reader.messages(self._connections)):
                label = f"bag '{self._path}' message {index} of '{_shown(self.topic)}'"
                message = self._types.deserialize_cdr(data, connection.msgtype)
                try:
                    frame = _picture(message, connection.msgtype)
                except InstformerError as error:
                    raise InstformerError(f"{label}: {error}") from error
                stamp = message.header.stamp
                self._current = FrameHeader(stamp.sec, stamp.nanosec, message.header.frame_id, logged)
                yield label, frame

    def _header(self, index: int) -> FrameHeader:
        return self._current

    def close(self) -> None:
        self._open.close()


def _open(path: Path, stack: ExitStack) -> tuple[Reader, Any]:
    try:
        from rosbags.rosbag2 import Reader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise InstformerError(
            f"bag '{path}': reading bags needs the package rosbags ({error}); pip install 'instformer_ros[bags]'"
        ) from error
    return stack.enter_context(Reader(path)), get_typestore(Stores.LATEST)


def _picture(message: Any, kind: str) -> Image:
    if kind == COMPRESSED:
        return decompress(message.format, message.data)
    return to_rgb(message.encoding, message.height, message.width, message.step, message.is_bigendian, message.data)


def _choose(path: Path, connections: Sequence[Connection], topic: str) -> list[Connection]:
    """The connections of the wanted topic; one topic has several when more than one camera process wrote to it."""
    images = [connection for connection in connections if connection.msgtype in (RAW, COMPRESSED)]
    if not topic:
        topics = {connection.topic for connection in images}
        if len(topics) > 1:
            raise InstformerError(f"bag '{path}': has several topics of images, give one of: {_listed(images)}")
        if not topics:
            raise InstformerError(f"bag '{path}': has no topic of images; it holds {_listed(connections)}")
        return images
    named = [connection for connection in connections if connection.topic in (topic, f"/{topic}")]
    if not named:
        raise InstformerError(f"bag '{path}': has no topic '{_shown(topic)}'; it holds {_listed(connections)}")
    chosen = [connection for connection in named if connection in images]
    if not chosen:
        raise InstformerError(
            f"bag '{path}': topic '{_shown(topic)}' is of type {_shown(named[0].msgtype)}, no image; "
            f"topics of images are {_listed(images)}"
        )
    return chosen


def _listed(connections: Sequence[Connection]) -> str:
    topics = sorted({f"{_shown(c.topic)} ({_shown(c.msgtype)})" for c in connections})
    more = f" and {len(topics) - _LISTED} more" if len(topics) > _LISTED else ""
    return ", ".join(topics[:_LISTED]) + more or "none"


def _shown(name: str) -> str:
    """A name out of a file, fit for one line."""
    return printable(name[:100])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes one line of whatever goes wrong in a damaged bag: rosbags and what it stands on raise many kinds."""
    try:
        yield
    except InstformerError:
        raise
    except Exception as error:
        reason = _shown(" ".join(str(error).split())) or type(error).__name__
        raise InstformerError(
            f"bag '{path}': is cut off or damaged ({reason}); mend it with 'ros2 bag reindex' or 'mcap recover'"
        ) from error
