"""Tiny data sets in the benchmarks' own file formats, with pictures, for the tests of readers and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from instformer_ros import masks

HEIGHT, WIDTH, LENGTH = 30, 40, 3


def square(left: int, top: int = 5, size: int = 10) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def counts(mask: np.ndarray) -> str:
    return masks.encode(mask)["counts"].decode("ascii")


def rle(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": counts(mask)}


def plain(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths, column by column, as YouTube-VIS has them."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *runs] if flat[0] else runs}


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), value, np.uint8))


def youtube_vis(folder: Path, videos: int = 2) -> tuple[dict[str, Any], Path]:
    """Two objects a video, a "giant panda" that moves and a "cat" that is null in the second frame."""
    data: dict[str, Any] = {
        "videos": [],
        "annotations": [],
        "categories": [
            {"id": 3, "name": "giant_panda", "partition": 0},
            {"id": 7, "name": "cat", "partition": 2},
            {"id": 9, "name": "dog", "partition": 3},
        ],
    }
    for v in range(1, videos + 1):
        files = [f"clip{v}/{t:05d}.png" for t in range(LENGTH)]
        for t, file in enumerate(files):
            picture(folder / file, 40 * v + t)
        data["videos"].append({"id": v, "width": WIDTH, "height": HEIGHT, "length": LENGTH, "file_names": files})
        tracks = [[square(2 + t + v) for t in range(LENGTH)], [square(25, 15)] * LENGTH]
        code = plain if v == 1 else rle
        for n, (track, category) in enumerate(zip(tracks, (3, 7), strict=True)):
            data["annotations"].append(
                {
                    "id": 2 * v + n,
                    "video_id": v,
                    "category_id": category,
                    "segmentations": [None if n and t == 1 else code(m) for t, m in enumerate(track)],
                    "iscrowd": 0,
                }
            )
    return data, folder


def burst(folder: Path) -> tuple[dict[str, Any], Path]:
    """Two sequences; persons (805, common) in both, an accordion (1, uncommon) in the first."""
    sequences = []
    for v in (1, 2):
        files = [f"frame{10 * t + 1:04d}.png" for t in range(LENGTH)]
        for t, file in enumerate(files):
            picture(folder / "val" / "HACS" / f"seq{v}" / file, 40 * v + t)
        tracks = {"1": 805, "2": 805} | ({"3": 1} if v == 1 else {})
        frames = [
            {
                tid: {"rle": counts(square(2 + 12 * (int(tid) - 1) + t)), "is_gt": True, "score": 1.0}
                for tid in tracks
                if not (tid == "2" and t == 1)
            }
            for t in range(LENGTH)
        ]
        sequences.append(
            {
                "id": v, "width": WIDTH, "height": HEIGHT, "fps": 30, "dataset": "HACS", "seq_name": f"seq{v}",
                "annotated_image_paths": files, "all_image_paths": files,
                "neg_category_ids": [95], "not_exhaustive_category_ids": [],
                "track_category_ids": tracks, "segmentations": frames,
            }
        )  # fmt: skip
    categories = [{"id": 1, "name": "acorn"}, {"id": 95, "name": "bicycle"}, {"id": 805, "name": "person"}]
    return {"split": "val", "sequences": sequences, "categories": categories}, folder


def coco(folder: Path) -> tuple[dict[str, Any], Path]:
    """An image with a cat (run lengths), a giant panda (polygon) and a crowd; one with a crowd alone; an empty one."""
    for n in (1, 2, 3):
        picture(folder / f"{n:012d}.png", 50 * n)
    polygon = [[5, 5, 15, 5, 15, 15, 5, 15]]
    entries = [(1, 7, rle(square(25)), 0), (1, 3, polygon, 0), (1, 7, plain(square(0)), 1), (2, 7, plain(square(3)), 1)]
    return {
        "images": [{"id": n, "file_name": f"{n:012d}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2, 3)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "segmentation": mask, "iscrowd": crowd}
            for n, (image, category, mask, crowd) in enumerate(entries, 1)
        ],
        "categories": [{"id": 3, "name": "giant_panda"}, {"id": 7, "name": "cat"}],
    }, folder


def save(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path
