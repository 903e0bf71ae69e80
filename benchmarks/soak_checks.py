"""What must hold of every result while the soak goes on. Pure checks: no ROS, no clock of their own.

The hostile camera writes what it knows of an image into the header's frame_id (:class:`Tag`), so that a result can be
held against its image without a second channel that could lag behind.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

_PATIENCE = 5.0  # seconds for a vocabulary to be heard of after the results that it named
_KEPT = 2000  # numbers of answered images remembered for each camera


@dataclass(frozen=True)
class Tag:
    """What a camera knows of one image."""

    generation: int  # counts the camera processes
    number: int  # counts the images of one
    height: int
    width: int
    stamp: tuple[int, int]  # seconds, nanoseconds: as in the header, which may be any fancy
    sent: float  # seconds, system clock
    quality: str  # "good", "bad" (must not be answered) or "either" (a damaged JPEG may still be a picture)
    began: float  # when this camera sent its first image: seconds, system clock

    def text(self) -> str:
        """As it goes into a frame_id."""
        place = self.generation, self.number, self.height, self.width, *self.stamp
        return "/".join(map(str, (*place, repr(self.sent), self.quality, repr(self.began))))

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Inverse of :meth:`text`. Raises ValueError for anything else."""
        generation, number, height, width, sec, nanosec, sent, quality, began = text.split("/")
        stamp = int(sec), int(nanosec)
        return cls(int(generation), int(number), int(height), int(width), stamp, float(sent), quality, float(began))


@dataclass(frozen=True)
class Seen:
    """One instance of a result."""

    track_id: int
    state: str  # "new", "tracked", "coasting", "terminated"
    age: int
    class_index: int
    class_name: str


@dataclass(frozen=True)
class Result:
    """One InstanceArray, as far as it is checked."""

    frame_id: str
    stamp: tuple[int, int]
    height: int
    width: int
    version: int
    frame_index: int
    instances: tuple[Seen, ...]


class Checker:
    """Collects faults by kind. Times are seconds of one clock, the same as :attr:`Tag.sent`."""

    def __init__(self, latency_limit: float) -> None:
        self.faults: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.latencies: list[float] = []
        self.results = 0
        self.first_results: dict[int, tuple[float, float]] = {}
        """By camera generation: when it sent its first image, and when the first result of any of its images came."""
        self._limit = latency_limit
        self._excused_until = 0.0
        self._answered: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._waiting: list[tuple[float, Result]] = []
        self._floor = 0  # the least version that a new image may still be answered with ...
        self._floor_from = float("inf")  # ... if it was sent after this
        self._names: dict[int, tuple[str, ...]] = {}
        self._largest = 0  # ID so far
        self._cleared_at = 0  # the largest ID when the tracks were last cleared
        self._index = -1  # of the newest result
        self._tracks: dict[int, tuple[int, int]] = {}  # ID: frame index and age, when it was last published
        self._ended: set[int] = set()

    def configured_anew(self) -> None:
        """The node has forgotten its tracks and counts frames from 0; IDs and versions go on."""
        self._clear()
        self._index = -1

    def _clear(self) -> None:
        self._cleared_at = self._largest
        self._tracks.clear()

    def excuse_latency(self, until: float) -> None:
        """The node is being put through a transition: what it answers meanwhile may be late."""
        self._excused_until = max(self._excused_until, until)

    def fault(self, kind: str, text: str) -> None:
        """Counts a fault; the first of a kind is kept as its example."""
        self.faults[kind] += 1
        self.examples.setdefault(kind, text)

    def vocabulary(self, version: int, names: Sequence[str]) -> None:
        """The node says which words it has in force."""
        if self._names.setdefault(version, tuple(names)) != tuple(names):
            self.fault("vocabulary", f"version {version} was {self._names[version]}, now {tuple(names)}")

    def confirmed(self, version: int, now: float) -> None:
        """A service call was answered: images sent from now on must be named by this version or a later one."""
        self._floor, self._floor_from = version, now

    def result(self, result: Result, now: float) -> None:
        """Checks one result that has just come."""
        self.results += 1
        self._check_header(result, now)
        self._check_ids(result)
        self._waiting.append((now, result))
        self._check_names(now)

    def end(self) -> None:
        """Whatever still waits for its vocabulary waits in vain."""
        self._check_names(float("inf"))

    def _check_header(self, result: Result, now: float) -> None:
        try:
            tag = Tag.parse(result.frame_id)
        except ValueError:
            self.fault("header", f"frame_id {result.frame_id!r} is of no image")
            return
        self.first_results.setdefault(tag.generation, (tag.began, now))
        if tag.stamp != result.stamp:
            self.fault("header", f"stamp {result.stamp} under {result.frame_id}")
        # A damaged JPEG may be a picture of another size.
        if tag.quality != "either" and (tag.height, tag.width) != (result.height, result.width):
            self.fault("header", f"{result.width}x{result.height} under {result.frame_id}")
        if tag.quality == "bad":
            self.fault("header", f"a broken image was answered: {result.frame_id}")
        if tag.number in self._answered[tag.generation]:
            self.fault("header", f"image {tag.number} of camera {tag.generation} was answered twice")
        self._answered[tag.generation].append(tag.number)
        if tag.sent > self._floor_from and result.version < self._floor:
            self.fault("vocabulary", f"version {result.version} after {self._floor} was confirmed")
        if tag.sent > self._excused_until:
            self.latencies.append(now - tag.sent)
            if self.latencies[-1] > self._limit:
                self.fault("latency", f"{self.latencies[-1]:.2f} s for {result.frame_id}")

    def _check_ids(self, result: Result) -> None:
        ids = [seen.track_id for seen in result.instances]
        if len(set(ids)) < len(ids):
            self.fault("identity", f"one ID twice in a frame: {ids}")
        if result.frame_index <= self._index:  # the tracks were cleared
            self._clear()
        self._index = result.frame_index
        for seen in result.instances:
            if seen.track_id in self._ended:
                self.fault("identity", f"track {seen.track_id} came back after its end")
            if seen.track_id <= self._cleared_at and seen.track_id not in self._tracks:
                self.fault("identity", f"ID {seen.track_id} again after the tracks were cleared at {self._cleared_at}")
            if seen.track_id in self._tracks:
                index, age = self._tracks[seen.track_id]
                if seen.age - age != result.frame_index - index:
                    self.fault(
                        "identity", f"track {seen.track_id} aged {age} to {seen.age} from {index} to {self._index}"
                    )
            self._tracks[seen.track_id] = result.frame_index, seen.age
            if seen.state == "terminated":
                self._ended.add(seen.track_id)
        self._largest = max([self._largest, *ids])

    def _check_names(self, now: float) -> None:
        """Of the results whose vocabulary has been heard of by now."""
        still = []
        for came, result in self._waiting:
            names = self._names.get(result.version, () if result.version == 0 else None)
            if names is None:
                if now - came < _PATIENCE:
                    still.append((came, result))
                else:
                    self.fault("vocabulary", f"version {result.version} was never published")
                continue
            for seen in result.instances:
                right = names[seen.class_index] if 0 <= seen.class_index < len(names) else ""
                if seen.class_name != right or (seen.class_index < 0) != (not names):
                    self.fault(
                        "vocabulary",
                        f"'{seen.class_name}' ({seen.class_index}) under version {result.version}: {names}",
                    )
        self._waiting = still
