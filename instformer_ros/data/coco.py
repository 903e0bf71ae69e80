"""COCO's instances (``instances_train2017.json``): stills as videos of one frame, for pre- and joint training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instformer_ros.data.annotation_file import Entry, check_folder, check_picture, mask_counts, read_json, unique
from instformer_ros.data.videos import AnnotatedVideo, VideoDataset, VideoObject
from instformer_ros.data.youtube_vis import read_categories


def read_coco(annotations: str | Path, images: str | Path, name: str = "coco") -> VideoDataset:
    """Reads a file of the format; pictures are read when asked for. Crowds and images without an object are left out.

    Args:
        annotations: the json file of instances, not of panoptic segments.
        images: the folder of pictures.
        name: of the data set, for errors.

    Raises:
        InstformerError: a file is missing, or a key or value is; the error names file, image and key.
    """
    return coco_dataset(read_json(annotations), images, name, str(annotations))


def coco_dataset(data: Any, images: str | Path, name: str, source: str) -> VideoDataset:
    """As :func:`read_coco`, of a file that is already read; ``source`` stands for it in errors."""
    root, images = Entry(data, source), Path(images)
    check_folder(images)
    categories = read_categories(root)
    entries = root.entries("images", "image")
    ids = [e.integer("id") for e in entries]
    unique(entries, ids, "id")
    sizes = {i: (e.integer("height"), e.integer("width")) for i, e in zip(ids, entries, strict=True)}
    objects = _objects(root, categories, sizes)
    videos: list[AnnotatedVideo] = []
    for image_id, entry in zip(ids, entries, strict=True):
        if image_id in objects:
            path = images / entry.text("file_name")
            if not videos:
                check_picture(path, path.stem)
            videos.append(AnnotatedVideo(image_id, path.stem, *sizes[image_id], (path,), tuple(objects[image_id])))
    return VideoDataset(name, videos, tuple(categories.values()), tuple(categories))


def _objects(
    root: Entry, categories: Mapping[int, str], sizes: Mapping[int, tuple[int, int]]
) -> dict[int, list[VideoObject]]:
    out: dict[int, list[VideoObject]] = {}
    for entry in root.entries("annotations", "annotation"):
        image, category = entry.integer("image_id"), entry.integer("category_id")
        if image not in sizes:
            raise entry.error(f"key 'image_id' is {image}, which no image has")
        if category not in categories:
            raise entry.error(f"key 'category_id' is {category}, which no category has")
        if entry.get("iscrowd"):
            continue
        counts = mask_counts(entry.get("segmentation"), *sizes[image], f"{entry.where} (image {image})")
        if counts is not None:
            out.setdefault(image, []).append(VideoObject(categories[category], (counts,), entry.integer("id")))
    return out
