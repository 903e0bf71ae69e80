"""COCO's panoptic annotations: the things of each picture, as videos of one frame. Stuff and crowds are left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from instformer_ros import masks as mask_tools
from instformer_ros.data.annotation_file import Entry, check_folder, check_picture, read_json
from instformer_ros.data.sources import read_picture
from instformer_ros.data.videos import AnnotatedVideo, VideoDataset, VideoObject
from instformer_ros.data.youtube_vis import read_categories


def read_panoptic(annotations: str | Path, images: str | Path, name: str = "coco-panoptic") -> VideoDataset:
    """Reads ``panoptic_val2017.json``; the masks are the PNG pictures in the folder of the same name beside it.

    Args:
        annotations: the json file.
        images: the folder of pictures.
        name: of the data set, for errors.

    Raises:
        InstformerError: a file is missing, or a key or value is; the error names file, image and key.
    """
    annotations, images = Path(annotations), Path(images)
    root, segments = Entry(read_json(annotations), str(annotations)), annotations.with_suffix("")
    check_folder(images)
    check_folder(segments)
    categories = read_categories(root)
    things = {e.integer("id") for e in root.entries("categories", "category") if e.integer("isthing")}
    sizes = {e.integer("id"): e for e in root.entries("images", "image")}
    videos = []
    for entry in root.entries("annotations", "annotation"):
        image = sizes.get(entry.integer("image_id"))
        if image is None:
            raise entry.error(f"key 'image_id' is {entry.get('image_id')}, which no image has")
        size = image.integer("height"), image.integer("width")
        objects = _objects(entry, segments / entry.text("file_name"), size, categories, things)
        path = images / image.text("file_name")
        check_picture(path, path.stem)
        if objects:
            videos.append(AnnotatedVideo(image.integer("id"), path.stem, *size, (path,), objects))
    names = {i: n for i, n in categories.items() if i in things}
    return VideoDataset(name, videos, tuple(names.values()), tuple(names))


def _objects(
    entry: Entry, picture: Path, size: tuple[int, int], categories: Mapping[int, str], things: set[int]
) -> tuple[VideoObject, ...]:
    colours = read_picture(picture, upright=False).astype(np.int64)
    if colours.shape[:2] != size:
        raise entry.error(f"mask picture '{picture}' is {colours.shape[1]}x{colours.shape[0]}, not {size[1]}x{size[0]}")
    ids = colours @ (1, 256, 65536)  # the format's own code: R + 256 G + 256² B
    out = []
    for segment in entry.entries("segments_info", "segment"):
        category, number = segment.integer("category_id"), segment.integer("id")
        if category not in categories:
            raise segment.error(f"key 'category_id' is {category}, which no category has")
        mask = ids == number
        if category in things and not segment.get("iscrowd") and mask.any():
            out.append(VideoObject(categories[category], (mask_tools.encode(mask)["counts"],), number))
    return tuple(out)
