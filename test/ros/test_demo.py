"""The demo's recorder: what it counts and what it writes, fed by hand."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from instformer_ros import masks
from instformer_ros.ros.images import to_message
from instformer_ros.ros.messages import instance_array
from instformer_ros.structures import TrackedFrame, TrackedInstance, TrackState, Vocabulary

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def recording() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    import recording

    yield recording
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def recorder(recording: Any, world: Any, tmp_path: Path) -> Iterator[Any]:
    node = recording.Recorder("image", "openvis", tmp_path / "overlay.mp4", 10.0, **world.node_arguments)
    yield node
    node.close()
    node.destroy_node()


def header(number: int) -> Header:
    return Header(stamp=Time(sec=100 + number, nanosec=7), frame_id="camera")


def raw_image(number: int) -> bytes:
    """The beginning of an image message as it travels: little-endian CDR, then the stamp."""
    return struct.pack("<4B", 0, 1, 0, 0) + struct.pack("<iI", 100 + number, 7) + b"and so on"


def instance(track_id: int, state: TrackState, name: str, score: float) -> TrackedInstance:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if state in (TrackState.NEW, TrackState.TRACKED):
        mask[10:20, 10:30] = True
    rle = masks.encode(mask)
    return TrackedInstance(track_id, state, 1, 0, 1, 0, name, score, 0.9, masks.box(rle), rle)


def answer(recorder: Any, number: int, *instances: TrackedInstance) -> None:
    frame = TrackedFrame(HEIGHT, WIDTH, Vocabulary(3, ("mug",)), number, list(instances))
    recorder._on_instances(instance_array(frame, header(number)))


def overlay(recorder: Any, number: int) -> None:
    picture = np.full((HEIGHT, WIDTH, 3), 20 * number, dtype=np.uint8)
    recorder._on_overlay(to_message(picture, header(number)))


def play(recorder: Any) -> None:
    """Six frames sent, of which 2 and 3 are dropped; track 1 all along, track 2 only coasting in the end."""
    for number in range(6):
        recorder._on_image(raw_image(number))
    for number in (0, 1, 4, 5):
        second = instance(2, TrackState.TRACKED if number < 4 else TrackState.COASTING, "cup", 0.5)
        answer(recorder, number, instance(1, TrackState.TRACKED, "mug" if number else "jug", 0.1 * number), second)
        overlay(recorder, number)


def test_counts_and_tracks(recorder: Any) -> None:
    play(recorder)
    assert recorder.counts() == {"sent": 6, "answered": 4, "dropped": 2, "overlays": 4}
    assert recorder.complete()
    first, second = recorder.tracks()
    assert (first.name, first.first, first.last, first.seen) == ("mug", 0, 5, 4)
    assert first.score == pytest.approx(0.25)
    assert (second.name, second.first, second.last, second.seen) == ("cup", 0, 1, 2)


def test_the_cameras_own_count_tells_of_frames_that_were_not_heard(recorder: Any) -> None:
    play(recorder)
    recorder.camera_sent = 9
    assert recorder.counts() == {"sent": 9, "answered": 4, "dropped": 5, "overlays": 4}


def test_it_is_not_complete_before_the_newest_frame_is_answered_and_drawn(recorder: Any) -> None:
    assert not recorder.complete()
    play(recorder)
    recorder._on_image(raw_image(6))
    assert not recorder.complete()
    answer(recorder, 6)
    assert not recorder.complete()
    overlay(recorder, 6)
    assert recorder.complete()


def test_the_video_keeps_real_time_over_dropped_frames(recorder: Any, tmp_path: Path) -> None:
    play(recorder)
    recorder.close()
    capture = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    shades = []
    while (read := capture.read())[0]:
        shades.append(round(float(read[1].mean()) / 20))
    assert shades == [0, 1, 1, 1, 4, 5]
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)


def test_files(recording: Any, recorder: Any, tmp_path: Path) -> None:
    play(recorder)
    recorder.close()
    recording.write_instances(tmp_path / "instances.json", recorder, {"source": "toyvis:1"})
    content = json.loads((tmp_path / "instances.json").read_text())
    assert content["source"] == "toyvis:1" and content["counts"]["dropped"] == 2
    assert [frame["frame"] for frame in content["frames"]] == [0, 1, 4, 5]
    seen = content["frames"][0]["instances"][0]
    assert masks.decode({**seen["mask"], "counts": seen["mask"]["counts"].encode()}).sum() == 200
    assert seen["box"] == [10, 10, 20, 10] and seen["class_name"] == "jug"
    recording.write_contact_sheet(tmp_path / "sheet.png", tmp_path / "overlay.mp4")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 2 * HEIGHT and sheet.shape[1] > 4 * WIDTH  # six pictures in rows of four
