"""Bags: every way of storing frames gives the same pixels, and whatever is wrong with a bag is said in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'instformer_ros[bags]'")
pytest.importorskip("mcap", reason="mcap is not installed: pip install 'instformer_ros[bags]'")

import bag_files
from bag_files import START, compressed, pictures, raw, text
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from instformer_ros import masks
from instformer_ros.bag_writer import INSTANCES, OVERLAY, VOCABULARY, BagWriter
from instformer_ros.data.source import FrameHeader
from instformer_ros.data.sources import open_source
from instformer_ros.structures import InstformerError, TrackedFrame, TrackedInstance, TrackState, Vocabulary

IMAGES = "/camera/image_raw"


def images(path: Path, **options: Any) -> Path:
    return bag_files.write(path, {IMAGES: [raw(n, p) for n, p in enumerate(pictures())]}, **options)


@pytest.mark.parametrize(
    ("plugin", "compression"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
def test_every_storage_gives_the_same_frames(
    plugin: StoragePlugin, compression: CompressionMode, tmp_path: Path
) -> None:
    path = images(tmp_path / "run", plugin=plugin, compression=compression)
    with open_source(path) as source:
        assert (source.name, source.length) == ("run", 3) and source.fps == pytest.approx(20)
        for again in range(2):
            seen = []
            for index, frame in enumerate(source):
                assert frame.dtype == np.uint8 and frame.flags.c_contiguous
                seen.append(frame)
                sec, nanosec = divmod(START + index * bag_files.PERIOD, 10**9)
                assert source.header == FrameHeader(sec, nanosec, "eye", START + index * bag_files.PERIOD + 1_000_000)
            np.testing.assert_array_equal(seen, pictures(), err_msg=f"loop {again}")


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_storage_file_alone(plugin: StoragePlugin, tmp_path: Path) -> None:
    (file,) = (file for file in images(tmp_path / "run", plugin=plugin).iterdir() if file.suffix != ".yaml")
    np.testing.assert_array_equal(list(open_source(file)), pictures())


def test_compressed_images(tmp_path: Path) -> None:
    path = bag_files.write(tmp_path / "run", {"/c": [compressed(n, p) for n, p in enumerate(pictures())]})
    np.testing.assert_array_equal(list(open_source(path)), pictures())


def test_other_encodings_are_those_of_the_node(tmp_path: Path) -> None:
    grey = pictures()[0][..., 0]
    message = raw(0, pictures()[0], encoding="mono8", step=32, data=grey.reshape(-1))
    (frame,) = open_source(bag_files.write(tmp_path / "run", {"/c": [message]}))
    np.testing.assert_array_equal(frame, np.stack([grey] * 3, -1))


def test_the_only_topic_of_images_need_not_be_named(tmp_path: Path) -> None:
    path = bag_files.write(tmp_path / "run", {"/chat": [text(0)], IMAGES: [raw(0, pictures()[0])]})
    for topic in ("", IMAGES, IMAGES[1:]):
        assert len(list(open_source(path, topic=topic))) == 1


def test_max_frames(tmp_path: Path) -> None:
    with open_source(images(tmp_path / "run"), max_frames=2) as source:
        assert source.length == 2 and len(list(source)) == 2


# --- What is wrong with it -------------------------------------------------------------------------------------------


def complaint(path: Path, topic: str = "") -> str:
    with pytest.raises(InstformerError) as caught:
        list(open_source(path, topic=topic))
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def test_an_unknown_topic_lists_those_that_there_are(tmp_path: Path) -> None:
    path = bag_files.write(tmp_path / "run", {"/chat": [text(0)], IMAGES: [raw(0, pictures()[0])]})
    line = complaint(path, "/nose")
    assert "no topic '/nose'" in line
    assert "/chat (std_msgs/msg/String)" in line and f"{IMAGES} (sensor_msgs/msg/Image)" in line


def test_topics_of_something_else(tmp_path: Path) -> None:
    path = bag_files.write(tmp_path / "run", {"/chat": [text(0)], IMAGES: [raw(0, pictures()[0])]})
    line = complaint(path, "/chat")
    assert "'/chat' is of type std_msgs/msg/String" in line and IMAGES in line
    path = bag_files.write(tmp_path / "talk", {"/chat": [text(0)]})
    assert "no topic of images; it holds /chat" in complaint(path)


def test_several_topics_of_images(tmp_path: Path) -> None:
    image = pictures()[0]
    path = bag_files.write(tmp_path / "run", {"/left": [raw(0, image)], "/right": [compressed(0, image)]})
    line = complaint(path)
    assert "/left (sensor_msgs/msg/Image), /right (sensor_msgs/msg/CompressedImage)" in line
    assert len(list(open_source(path, topic="/right"))) == 1


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_truncated_bag(plugin: StoragePlugin, share: float, tmp_path: Path) -> None:
    path = images(tmp_path / "run", plugin=plugin)
    (file,) = (file for file in path.iterdir() if file.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    for damaged in (path, file):
        assert "cut off or damaged" in complaint(damaged)


def test_a_recording_that_was_not_ended(tmp_path: Path) -> None:
    path = images(tmp_path / "run")
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: [")
    assert "ros2 bag reindex" in complaint(path)
    (path / "metadata.yaml").unlink()
    assert "ros2 bag reindex" in complaint(path)


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    good = pictures()[0]
    path = bag_files.write(tmp_path / "cut", {"/c": [raw(0, good), raw(1, good, data=np.zeros(7, np.uint8))]})
    line = complaint(path)
    assert "message 1 of '/c'" in line and "7 bytes" in line
    path = bag_files.write(tmp_path / "sizes", {"/c": [raw(0, good), raw(1, pictures(height=10)[0])]})
    assert "32x10" in complaint(path)
    path = bag_files.write(tmp_path / "depth", {"/c": [raw(0, good, encoding="16UC1")]})
    assert "message 0 of '/c': image encoding '16UC1' is not known" in complaint(path)


def test_a_topic_is_for_bags_only(tmp_path: Path) -> None:
    with pytest.raises(InstformerError, match="is no bag"):
        open_source("toyvis:1", topic="/c")
    with pytest.raises(InstformerError, match="no such file"):
        open_source(tmp_path / "nothing.mcap")


def test_without_the_packages_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = images(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    assert "pip install 'instformer_ros[bags]'" in complaint(path)
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    with pytest.raises(InstformerError, match="pip install"):
        BagWriter(tmp_path / "out.mcap")


# --- Writing ---------------------------------------------------------------------------------------------------------


def answer(names: tuple[str, ...] = ("cup", "saucer"), index: int = 0) -> TrackedFrame:
    mask = np.zeros((20, 32), np.bool_)
    mask[4:9, 3:14] = True
    instance = TrackedInstance(
        track_id=7,
        state=TrackState.TRACKED,
        age=3,
        frames_since_seen=0,
        label_value=1,
        class_index=1,
        class_name=names[1],
        score=0.5,
        objectness=0.75,
        box=(3, 4, 11, 5),
        rle=masks.encode(mask),
        class_scores=np.array([0.25, 0.5], np.float32),
    )
    return TrackedFrame(20, 32, Vocabulary(2, names), index, [instance])


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    """With another reader, which knows nothing but the definitions in the file."""
    path = tmp_path / "new folder" / "out.mcap"
    header = FrameHeader(1700, 5, "eye", 1700_000_000_123)
    with BagWriter(path) as bag:
        for index, picture in enumerate(pictures()):
            bag.add(header, answer(index=index), picture)
    assert [file.name for file in path.parent.iterdir()] == ["out.mcap"]
    with path.open("rb") as file:
        decoded = make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages(log_time_order=False)
        found = [(channel.topic, message.log_time, fields) for _, channel, message, fields in decoded]
    assert [topic for topic, _, _ in found] == [VOCABULARY, *[INSTANCES, OVERLAY] * 3]
    assert {logged for _, logged, _ in found} == {1700_000_000_123}
    words, array, overlay = (message for _, _, message in found[:3])
    assert (words.version, list(words.names)) == (2, ["cup", "saucer"])
    assert (array.header.stamp.sec, array.header.stamp.nanosec, array.header.frame_id) == (1700, 5, "eye")
    assert (array.height, array.width, array.vocabulary_version, array.frame_index) == (20, 32, 2, 0)
    (instance,) = array.instances
    assert (instance.track_id, instance.state, instance.class_name, instance.score) == (7, 2, "saucer", 0.5)
    assert list(instance.class_scores) == [0.25, 0.5]
    assert instance.mask_encoding == "coco_rle"
    mask = masks.decode({"size": [array.height, array.width], "counts": bytes(instance.mask)})
    assert mask[4:9, 3:14].all() and mask.sum() == 55
    assert overlay.header.frame_id == "eye"
    assert cv2.imdecode(np.frombuffer(bytes(overlay.data), np.uint8), cv2.IMREAD_COLOR).shape == (20, 32, 3)
    assert found[-1][2].header == overlay.header


def test_the_overlay_can_be_segmented_again(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    picture = np.full((20, 32, 3), (200, 90, 30), np.uint8)
    with BagWriter(path) as bag:
        bag.add(FrameHeader(0, 0, "eye", 0), answer(), picture)
    (frame,) = open_source(path)
    assert np.all(np.abs(frame.astype(int) - picture) <= 3), "RGB, not BGR"


def test_odd_times_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    header = FrameHeader(-(2**31), 2**32 - 1, "", -5)
    with BagWriter(path) as bag:
        bag.add(header, answer(), pictures()[0])
    with open_source(path) as source:
        list(source)
        assert source.header == FrameHeader(-(2**31), 2**32 - 1, "", 0)


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / "out.mcap") as bag:
        bag.add(FrameHeader(0, 0, "", 0), answer(), pictures()[0])
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file.mcap").touch()
    with pytest.raises(InstformerError, match="exists already"):
        BagWriter(tmp_path / "file.mcap")
    with pytest.raises(InstformerError, match=r"end in \.mcap"):
        BagWriter(tmp_path / "out.bag")
    with pytest.raises(InstformerError, match="cannot be written"):
        BagWriter(tmp_path / "file.mcap" / "out.mcap")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full to play a full disk")
    (tmp_path / "out.mcap.part").symlink_to("/dev/full")
    with pytest.raises(InstformerError, match="No space left"), BagWriter(tmp_path / "out.mcap") as bag:
        for _ in range(200):
            bag.add(FrameHeader(0, 0, "", 0), answer(), pictures(1, 200, 320)[0])
