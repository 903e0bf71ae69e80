"""The BURST format (Athar et al. 2023): masks of tracks at one frame a second, with federated labels.

``sequences{id, width, height, dataset, seq_name, annotated_image_paths, neg_category_ids, not_exhaustive_category_ids,
track_category_ids{tid: category}, segmentations[{tid: {rle, score}}]}``, ``categories{id, name}`` and ``split``;
``rle`` is the counts text alone. A class that a sequence lists nowhere is *unlabelled* there, not absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instformer_ros.data.annotation_file import Entry, check_folder, check_picture, mask_counts, read_json
from instformer_ros.data.videos import AnnotatedVideo, VideoDataset, VideoObject
from instformer_ros.data.youtube_vis import read_categories

# The category ids of the 78 classes that COCO has too: "common". All others are "uncommon" (as in BURST's evaluation).
COMMON = frozenset(
    (4, 13, 34, 35, 36, 41, 45, 58, 60, 78, 79, 81, 91, 95, 99, 118, 126, 133, 139, 154, 174, 185, 211, 221, 229, 235,
     237, 276, 299, 347, 371, 382, 392, 428, 429, 452, 475, 480, 502, 544, 579, 621, 625, 642, 699, 714, 717, 729, 747,
     779, 805, 829, 852, 896, 926, 937, 961, 979, 980, 982, 993, 1001, 1018, 1038, 1057, 1091, 1097, 1099, 1115, 1117,
     1122, 1132, 1135, 1144, 1155, 1162, 1215, 1229)
)  # fmt: skip


def read_burst(annotations: str | Path, images: str | Path, name: str = "burst") -> VideoDataset:
    """Reads a file of the format; pictures are read when a frame is asked for. Frames are the annotated ones.

    Args:
        annotations: the json file, ``all_classes.json``.
        images: the folder that holds ``DATASET/SEQUENCE/picture``, or the one above it, with a folder for each split.
        name: of the data set, for errors.

    Raises:
        InstformerError: a file is missing, or a key or value is; the error names file, sequence and key.
    """
    return burst_dataset(read_json(annotations), images, name, str(annotations))


def burst_dataset(data: Any, images: str | Path, name: str, source: str) -> VideoDataset:
    """As :func:`read_burst`, of a file that is already read; ``source`` stands for it in errors."""
    root, images = Entry(data, source), Path(images)
    check_folder(images)
    split = root.get("split")
    if isinstance(split, str) and split and (images / split).is_dir():
        images = images / split
    categories = read_categories(root)
    videos = [_video(entry, images, categories) for entry in root.entries("sequences", "sequence")]
    common = tuple(n for i, n in categories.items() if i in COMMON)
    uncommon = tuple(n for i, n in categories.items() if i not in COMMON)
    splits = {"common": common, "uncommon": uncommon}
    return VideoDataset(name, videos, tuple(categories.values()), tuple(categories), splits)


def _video(entry: Entry, images: Path, categories: Mapping[int, str]) -> AnnotatedVideo:
    title = f"{entry.text('dataset')}/{entry.text('seq_name')}"
    files = tuple(images / title / f for f in entry.texts("annotated_image_paths"))
    if not files:
        raise entry.error("key 'annotated_image_paths' is empty")
    check_picture(files[0], title)
    height, width = entry.integer("height"), entry.integer("width")
    objects = _objects(entry, categories, len(files), height, width)
    return AnnotatedVideo(entry.integer("id"), title, height, width, files, objects)


def _objects(
    entry: Entry, categories: Mapping[int, str], length: int, height: int, width: int
) -> tuple[VideoObject, ...]:
    """Empty for a sequence without annotations, as in a test split."""
    if entry.get("segmentations") is None:
        return ()
    frames = entry.items("segmentations")
    if len(frames) != length:
        raise entry.error(f"key 'segmentations' holds {len(frames)}, but 'annotated_image_paths' {length}")
    classes = Entry(entry.get("track_category_ids"), f"{entry.where}, key 'track_category_ids'")
    masks: dict[str, list[bytes | None]] = {}
    for t, frame in enumerate(frames):
        if not isinstance(frame, Mapping):
            raise entry.error(f"key 'segmentations', frame {t}: expected an object of track ids")
        for track, mask in frame.items():
            where = f"{entry.where}, frame {t}, track {track}"
            rle = {"size": [height, width], "counts": Entry(mask, where).text("rle")}
            masks.setdefault(track, [None] * length)[t] = mask_counts(rle, height, width, where)
    out = []
    for track, counts in masks.items():
        category = classes.integer(track)
        if category not in categories:
            raise classes.error(f"track {track} has category {category}, which no category has")
        out.append(VideoObject(categories[category], tuple(counts), int(track)))
    return tuple(out)
