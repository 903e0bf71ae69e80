"""Readers of the published file formats, and what they say of files that are missing or inconsistent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_files as files
import cv2
import numpy as np
import pytest

from instformer_ros.data.clips import ClipOptions, ClipSampler
from instformer_ros.data.datasets import READERS, read_dataset
from instformer_ros.data.videos import AnnotatedVideo
from instformer_ros.structures import InstformerError

MAKERS: dict[str, Callable[[Path], tuple[dict[str, Any], Path]]] = {
    "youtube-vis": files.youtube_vis,
    "burst": files.burst,
    "coco": files.coco,
}


def read(tmp_path: Path, kind: str, change: Callable[[Any], object] | None = None) -> Any:
    data, images = MAKERS[kind](tmp_path / "images")
    if change is not None:
        change(data)
    return read_dataset(kind, files.save(tmp_path / f"{kind}.json", data), images)


def test_youtube_vis(tmp_path: Path) -> None:
    dataset = read(tmp_path, "youtube-vis")
    assert dataset.classes == ("giant panda", "cat", "dog") and dataset.category_ids == (3, 7, 9)
    assert dataset.splits == {"base": ("giant panda",), "novel": ("cat", "dog")}
    for v, video in enumerate(dataset.videos, 1):
        assert (video.video_id, video.name, video.length) == (v, f"clip{v}", files.LENGTH)
        assert (video.height, video.width, video.names) == (files.HEIGHT, files.WIDTH, ("giant panda", "cat"))
        for t, (image, masks) in enumerate(video):
            assert image.shape == (files.HEIGHT, files.WIDTH, 3) and (image == 40 * v + t).all()
            assert np.array_equal(masks[0], files.square(2 + t + v))  # plain run lengths in the first video, else coded
            assert np.array_equal(masks[1], files.square(25, 15) & (t != 1))
        with pytest.raises(IndexError, match="frame 3 of video"):
            video.frame(3)


def test_burst(tmp_path: Path) -> None:
    dataset = read(tmp_path, "burst")
    assert dataset.splits == {"common": ("bicycle", "person"), "uncommon": ("acorn",)}
    first, second = dataset.videos
    assert first.name == "HACS/seq1" and first.names == ("person", "person", "acorn") and len(second.names) == 2
    image, masks = first.frame(1)
    assert (image == 41).all() and not masks[1].any() and np.array_equal(masks[2], files.square(2 + 24 + 1))
    # the folder of a split may also be given itself
    again = read_dataset("burst", tmp_path / "burst.json", tmp_path / "images" / "val")
    assert again.videos[0].files == first.files


def test_coco(tmp_path: Path) -> None:
    dataset = read(tmp_path, "coco")
    (still,) = dataset.videos  # crowds are no objects, and the other images hold nothing else
    assert still.length == 1 and still.names == ("cat", "giant panda")
    masks = still.frame(0)[1]
    assert np.array_equal(masks[0], files.square(25)) and masks[1].sum() == pytest.approx(100, abs=25)
    clip = ClipSampler([dataset], ClipOptions(short_side=(30, 30), shift=0.0))(np.random.default_rng(0))
    assert clip.images.shape[0] == 5 and clip.names == ("cat", "giant panda")


def test_all_of_one_format_are_registered() -> None:
    assert {"youtube-vis", "lv-vis", "uvo", "burst", "coco", "coco-panoptic"} == set(READERS)
    with pytest.raises(InstformerError, match="'davis': unknown; use one of youtube-vis, lv-vis"):
        read_dataset("davis", "x", "y")


def test_a_test_split_has_videos_and_no_objects(tmp_path: Path) -> None:
    for change in (lambda d: d.pop("annotations"), lambda d: d.update(annotations=None)):
        dataset = read(tmp_path, "youtube-vis", change)
        assert len(dataset) == 2 and dataset.videos[0].names == () and dataset.videos[0].frame(0)[1].shape[0] == 0
    assert read(tmp_path, "burst", lambda d: d["sequences"][0].pop("segmentations")).videos[0].names == ()


def test_a_video_is_small_where_it_is_sent_to_workers(tmp_path: Path) -> None:
    import pickle

    video = read(tmp_path, "youtube-vis").videos[0]
    again = pickle.loads(pickle.dumps(video))
    assert again == video and isinstance(again, AnnotatedVideo)


def first(data: Any, key: str) -> Any:
    return data[key][0]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("youtube-vis", lambda d: d.pop("videos"), r"youtube-vis.json: key 'videos' is missing"),
        ("youtube-vis", lambda d: d.update(categories={}), r"key 'categories' is \{\}; expected a list"),
        ("youtube-vis", lambda d: first(d, "videos").pop("height"), r"json, video 1: key 'height' is missing"),
        ("youtube-vis", lambda d: first(d, "videos").update(length=2), r"video 1: key 'length' is 2, but .* holds 3"),
        ("youtube-vis", lambda d: first(d, "videos").update(id=2), r"video 2: a second id 2"),
        ("youtube-vis", lambda d: first(d, "videos").update(file_names=[3]), r"video 1: key 'file_names' is 3"),
        ("youtube-vis", lambda d: first(d, "annotations").update(video_id=99), r"annotation 2: key 'video_id' is 99"),
        (
            "youtube-vis",
            lambda d: first(d, "annotations").update(category_id=1),
            r"annotation 2: .*category_id' is 1",
        ),
        ("youtube-vis", lambda d: first(d, "annotations").update(category_id="x"), r"'category_id' is 'x'; expected a"),
        ("youtube-vis", lambda d: first(d, "annotations")["segmentations"].pop(), r"holds 2, but video 1 has 3 frames"),
        (
            "youtube-vis",
            lambda d: first(d, "annotations")["segmentations"][2].update(size=[4, 5]),
            r"annotation 2 \(video 1\), frame 2: run lengths that do not add up",
        ),
        (
            "youtube-vis",
            lambda d: first(d, "annotations")["segmentations"].__setitem__(0, 5),
            r"frame 0: not a run",
        ),
        ("youtube-vis", lambda d: first(d, "categories").update(name="cat"), r"category 7: a second name 'cat'"),
        ("youtube-vis", lambda d: first(d, "categories").update(partition=4), r"category 3: key 'partition' is 4"),
        ("youtube-vis", lambda d: d["videos"].append(5), r"video number 2: 5 where an object"),
        (
            "burst",
            lambda d: first(d, "sequences").pop("seq_name"),
            r"burst.json, sequence 1: key 'seq_name' is",
        ),
        ("burst", lambda d: first(d, "sequences")["segmentations"].pop(), r"holds 2, but 'annotated_image_paths' 3"),
        ("burst", lambda d: first(d, "sequences")["track_category_ids"].pop("2"), r"track_category_ids': key '2' is"),
        ("burst", lambda d: first(d, "sequences")["track_category_ids"].update({"2": 6}), r"track 2 has category 6"),
        (
            "burst",
            lambda d: first(d, "sequences")["segmentations"][1]["3"].pop("rle"),
            r"sequence 1, frame 1, track 3: key 'rle' is missing",
        ),
        (
            "burst",
            lambda d: first(d, "sequences")["segmentations"].__setitem__(0, []),
            r"frame 0: expected an",
        ),
        ("coco", lambda d: first(d, "annotations").update(image_id=9), r"coco.json, annotation 1: key 'image_id' is 9"),
        ("coco", lambda d: first(d, "images").pop("file_name"), r"image 1: key 'file_name' is missing"),
        ("coco", lambda d: first(d, "annotations").update(segmentation="x"), r"annotation 1 \(image 1\): not a run"),
    ],
)
def test_inconsistent_files_are_named(tmp_path: Path, kind: str, change: Any, message: str) -> None:
    with pytest.raises(InstformerError, match=message) as error:
        read(tmp_path, kind, change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_missing_and_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    data, images = MAKERS[kind](tmp_path / "images")
    path = files.save(tmp_path / "all.json", data)
    with pytest.raises(InstformerError, match=r"none.json: no such file"):
        read_dataset(kind, tmp_path / "none.json", images)
    with pytest.raises(InstformerError, match=r"nowhere': not there; give the folder"):
        read_dataset(kind, path, tmp_path / "nowhere")
    (tmp_path / "half.json").write_text(json.dumps(data)[:-9])
    with pytest.raises(InstformerError, match=r"half.json: not a whole json file") as error:
        read_dataset(kind, tmp_path / "half.json", images)
    assert "\n" not in str(error.value)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InstformerError, match=r"list.json: \[\] where an object with keys should stand"):
        read_dataset(kind, tmp_path / "list.json", images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InstformerError, match=r"picture '.*' of video '.*': not there"):
        read_dataset(kind, path, tmp_path / "empty")


def test_bad_pictures_are_named_when_they_are_read(tmp_path: Path) -> None:
    video = read(tmp_path, "youtube-vis").videos[0]
    cv2.imwrite(str(video.files[1]), np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(InstformerError, match=r"00001.png': 8x9 pixels, but .* video 'clip1' say 40x30"):
        video.frame(1)
    video.files[2].write_bytes(b"no picture")
    with pytest.raises(InstformerError, match=r"00002.png': cannot be read"):
        video.frame(2)
    video.files[2].unlink()
    with pytest.raises(InstformerError, match=r"00002.png': not there"):
        video.frame(2)


def test_damaged_run_lengths_are_named(tmp_path: Path) -> None:
    def spoil(data: Any) -> None:
        mask = data["annotations"][2]["segmentations"][0]
        mask["counts"] = mask["counts"] * 2

    with pytest.raises(InstformerError, match=r"annotation 4 \(video 2\), frame 0: mask of 30x40: its run lengths"):
        read(tmp_path, "youtube-vis", spoil).videos[1].frame(0)
