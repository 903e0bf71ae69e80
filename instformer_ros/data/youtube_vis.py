"""The YouTube-VIS format, which YouTube-VIS 2019 and 2021, LV-VIS and UVO share.

``videos{id, width, height, length, file_names}``, ``categories{id, name}`` and ``annotations{id, video_id, category_id,
segmentations[run lengths | null], iscrowd}``. LV-VIS adds ``partition`` to a category: 0 and 1 are base classes, 2 and
3 novel ones. UVO (dense) has one category, "object". Files without ``annotations`` (a test split) are videos to run on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instformer_ros.data.annotation_file import (
    Entry,
    check_folder,
    check_picture,
    mask_counts,
    read_json,
    spoken,
    unique,
)
from instformer_ros.data.videos import AnnotatedVideo, VideoDataset, VideoObject

BASE_PARTITIONS, NOVEL_PARTITIONS = (0, 1), (2, 3)  # of LV-VIS: frequent and common, rare and unseen in LVIS


def read_youtube_vis(annotations: str | Path, images: str | Path, name: str = "youtube-vis") -> VideoDataset:
    """Reads a file of the format; pictures are read when a frame is asked for.

    Args:
        annotations: the json file.
        images: the folder that ``file_names`` start from (``JPEGImages``).
        name: of the data set, for errors.

    Raises:
        InstformerError: a file is missing, or a key or value is; the error names file, video and key.
    """
    return youtube_vis_dataset(read_json(annotations), images, name, str(annotations))


def youtube_vis_dataset(data: Any, images: str | Path, name: str, source: str) -> VideoDataset:
    """As :func:`read_youtube_vis`, of a file that is already read; ``source`` stands for it in errors."""
    root, images = Entry(data, source), Path(images)
    check_folder(images)
    categories = read_categories(root)
    entries = root.entries("videos", "video")
    for entry in entries:
        count = len(entry.texts("file_names"))
        if not count or entry.integer("length") != count:
            raise entry.error(f"key 'length' is {entry.get('length')}, but 'file_names' holds {count}")
    unique(entries, [e.integer("id") for e in entries], "id")
    objects = _objects(root, categories)
    videos = []
    for entry in entries:
        video_id, files = entry.integer("id"), tuple(images / f for f in entry.texts("file_names"))
        title = files[0].parent.name if len(files) > 1 else files[0].stem
        check_picture(files[0], title)
        height, width = entry.integer("height"), entry.integer("width")
        videos.append(AnnotatedVideo(video_id, title, height, width, files, tuple(objects.get(video_id, ()))))
    return VideoDataset(name, videos, tuple(categories.values()), tuple(categories), read_splits(root))


def read_categories(root: Entry) -> dict[int, str]:
    """Spoken name of each category id, in the order of the file."""
    entries = root.entries("categories", "category")
    ids, names = [e.integer("id") for e in entries], [spoken(e.text("name")) for e in entries]
    unique(entries, ids, "id")
    unique(entries, names, "name")
    return dict(zip(ids, names, strict=True))


def read_splits(root: Entry) -> dict[str, tuple[str, ...]]:
    """LV-VIS's "base" and "novel" classes; empty where categories have no ``partition``."""
    entries = root.entries("categories", "category")
    if all(e.get("partition") is None for e in entries):
        return {}
    splits: dict[str, list[str]] = {"base": [], "novel": []}
    for entry in entries:
        partition = entry.integer("partition")
        if partition not in (*BASE_PARTITIONS, *NOVEL_PARTITIONS):
            raise entry.error(f"key 'partition' is {partition}; expected 0 to 3")
        splits["base" if partition in BASE_PARTITIONS else "novel"].append(spoken(entry.text("name")))
    return {split: tuple(names) for split, names in splits.items()}


def has_truth(data: Mapping[str, Any]) -> bool:
    """Does a file of the format hold annotations? The published test splits, and some validation splits, do not."""
    return bool(data.get("annotations"))


def _objects(root: Entry, categories: Mapping[int, str]) -> dict[int, list[VideoObject]]:
    """Objects of each video id; crowds are left out."""
    sizes = {
        v.integer("id"): (v.integer("height"), v.integer("width"), v.integer("length"))
        for v in root.entries("videos", "video")
    }
    out: dict[int, list[VideoObject]] = {}
    for entry in root.entries("annotations", "annotation") if root.get("annotations") else ():
        video, category = entry.integer("video_id"), entry.integer("category_id")
        if video not in sizes:
            raise entry.error(f"key 'video_id' is {video}, which no video has")
        if category not in categories:
            raise entry.error(f"key 'category_id' is {category}, which no category has")
        height, width, length = sizes[video]
        masks = entry.items("segmentations")
        if len(masks) != length:
            raise entry.error(f"key 'segmentations' holds {len(masks)}, but video {video} has {length} frames")
        if entry.get("iscrowd"):
            continue
        where = f"{entry.where} (video {video})"
        counts = tuple(mask_counts(m, height, width, f"{where}, frame {t}") for t, m in enumerate(masks))
        out.setdefault(video, []).append(VideoObject(categories[category], counts, entry.integer("id")))
    return out
