"""The data sets by name: a new one is one reader and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from instformer_ros.data.burst import read_burst
from instformer_ros.data.coco import read_coco
from instformer_ros.data.panoptic import read_panoptic
from instformer_ros.data.videos import VideoDataset
from instformer_ros.data.youtube_vis import read_youtube_vis
from instformer_ros.structures import InstformerError

READERS: dict[str, Callable[[str | Path, str | Path, str], VideoDataset]] = {
    "youtube-vis": read_youtube_vis,  # 2019 and 2021
    "lv-vis": read_youtube_vis,
    "uvo": read_youtube_vis,
    "burst": read_burst,
    "coco": read_coco,
    "coco-panoptic": read_panoptic,
}


def read_dataset(kind: str, annotations: str | Path, images: str | Path) -> VideoDataset:
    """A data set from its published files.

    Args:
        kind: one of :data:`READERS`.
        annotations: its json file.
        images: its folder of pictures.

    Raises:
        InstformerError: an unknown kind, or files that are missing or inconsistent.
    """
    if kind not in READERS:
        raise InstformerError(f"data set '{kind}': unknown; use one of {', '.join(READERS)}")
    return READERS[kind](annotations, images, kind)
