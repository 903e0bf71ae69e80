"""What video AP / AR is held against: a deliberately naive reference, and numbers of the public evaluator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from instformer_ros.evaluation.video_ap import AREAS, MAX_DETECTIONS, RECALLS, THRESHOLDS

# Twelve numbers of the public YouTube-VIS evaluator (Python API, run outside this repository) on random_dataset(seed).
PUBLIC: dict[int, list[float]] = {  # -1 = undefined
    0: [
        0.09795910909772, 0.15909343681621, 0.08424092409241, 0.10430939281512, 0.13886138613861, 0.0,
        0.08257575757576, 0.27575757575758, 0.27575757575758, 0.29880952380952, 0.25, 0.0,
    ],
    1: [
        0.12217371737174, 0.17550588392173, 0.12040870753742, 0.14058816595945, 0.02524752475248, 0.75247524752475,
        0.335, 0.36833333333333, 0.36833333333333, 0.37037037037037, 0.05, 0.75,
    ],
    2: [
        0.03604934761306, 0.04699484501465, 0.03977891439148, 0.0447286875334, 0.0, 0.0,
        0.13314814814815, 0.22324074074074, 0.26074074074074, 0.29153439153439, 0.0, 0.0,
    ],
    3: [
        0.08052864933968, 0.13368086115925, 0.07143861567371, 0.08485021765131, 0.18407590759076, 0.42891914191419,
        0.21299145299145, 0.33025641025641, 0.34358974358974, 0.33130341880342, 0.325, 0.7125,
    ],
    4: [
        0.1106248627179, 0.17290657637192, 0.09613406799633, 0.06416969902118, 0.16377887788779, 0.47123212321232,
        0.20371572871573, 0.22742604617605, 0.22742604617605, 0.15200216450216, 0.27, 0.61666666666667,
    ],
    5: [
        0.02960233648163, 0.05508602545136, 0.02565092245681, 0.03450495812464, 0.08415841584158, 0.25957095709571,
        0.1537518037518, 0.24849927849928, 0.24849927849928, 0.20909090909091, 0.16666666666667, 0.35,
    ],
    6: [
        0.25400213550767, 0.30884441385315, 0.23931246065783, 0.12419141914191, 0.76278877887789, 0.52286657237152,
        0.3202380952381, 0.42857142857143, 0.42857142857143, 0.28641025641026, 0.875, 0.57777777777778,
    ],
    7: [
        0.09291336275897, 0.22181083654584, 0.08646864686469, 0.06487002737541, 0.33285478547855, 0.56666666666667,
        0.18666666666667, 0.27888888888889, 0.27888888888889, 0.20796296296296, 0.6625, 0.73333333333333,
    ],
    8: [
        0.06618837897881, 0.1088395957409, 0.04540770108084, 0.05847213324208, 0.09848184818482, 0.4,
        0.12828282828283, 0.2709595959596, 0.29823232323232, 0.29814814814815, 0.19166666666667, 0.4,
    ],
    9: [
        0.05861898219897, 0.10704641892761, 0.04932546826111, 0.0523835716905, 0.2835396039604, 0.33333333333333,
        0.17472222222222, 0.30388888888889, 0.30388888888889, 0.26, 0.425, 0.5,
    ],
}  # fmt: skip


def rle(mask: np.ndarray) -> dict[str, Any]:
    out = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in out["size"]], "counts": out["counts"].decode("ascii")}


def random_mask(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    top, left = rng.randint(0, height // 2), rng.randint(0, width // 2)
    mask[top : top + rng.randint(1, height), left : left + rng.randint(1, width)] = True
    if height < 100:
        mask &= rng.rand(height, width) < 0.8
    elif rng.rand() < 0.4:
        mask[:] = True  # fills the picture: the largest area bin
    return mask


def random_dataset(seed: int, videos: int = 20) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Small random videos with every edge case in them. The legacy generator's stream is frozen for good."""
    rng = np.random.RandomState(seed)
    data: dict[str, Any] = {
        "videos": [],
        "annotations": [],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 5)],
    }
    results = []
    for v in range(1, videos + 1):
        large = rng.rand() < 0.3
        height, width = (300, 320) if large else (14, 17)
        length = rng.randint(1, 5)
        data["videos"].append({"id": v, "height": height, "width": width, "length": length})

        tracks = []
        for _ in range(rng.choice([0, 1, 2, 3, 4])):
            masks = [random_mask(rng, height, width) for _ in range(length)]
            entry: list[Any] = []
            for mask in masks:
                chance = rng.rand()
                mask &= chance >= 0.1  # some are empty, some null
                entry.append(None if chance > 0.85 else rle(mask))
            areas = [None if s is None else int(coco_mask.area(s)) for s in entry]
            category = int(rng.choice([1, 2, 5]))
            tracks.append((masks, category))
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "video_id": v,
                    "category_id": category,
                    "segmentations": entry,
                    "areas": areas,
                    "iscrowd": int(rng.rand() < 0.15),
                }
            )
        for _ in range(rng.choice([0, 1, 3, 6, 130], p=[0.1, 0.2, 0.3, 0.38, 0.02])):
            category = int(rng.choice([1, 2, 5]))
            if tracks and rng.rand() < 0.8:  # an annotation, somewhat spoiled, mostly with its own class
                source, own = tracks[rng.randint(len(tracks))]
                category = own if rng.rand() < 0.8 else category
                noise = rng.choice([0.0, 0.01, 0.03, 0.1, 0.3])
                masks = [m ^ (rng.rand(height, width) < noise) for m in source] if noise else source
            else:
                masks = [random_mask(rng, height, width) for _ in range(length)]
            results.append(
                {
                    "video_id": v,
                    "category_id": category,
                    "score": float(rng.randint(0, 20)) / 20,  # many equal scores
                    "segmentations": [None if rng.rand() < 0.05 else rle(m & (rng.rand() > 0.03)) for m in masks],
                }
            )
    return data, results


# ---- the naive reference: decoded masks, plain loops, no code in common -------------------------------------------


def naive(data: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    def pixels(track: dict[str, Any]) -> list[np.ndarray | None]:
        return [None if s is None else coco_mask.decode(s).astype(bool) for s in track["segmentations"]]

    def track_iou(a: list[np.ndarray | None], b: list[np.ndarray | None]) -> float:
        inter = union = 0
        for x, y in zip(a, b, strict=True):
            if x is not None and y is not None:
                inter += int((x & y).sum())
                union += int((x | y).sum())
            elif x is not None:
                union += int(x.sum())
            elif y is not None:
                union += int(y.sum())
        return inter / union if union else 0.0

    def mean_area(track: list[np.ndarray | None]) -> float:
        areas = [int(m.sum()) for m in track if m is not None and m.any()]
        return sum(areas) / len(areas) if areas else 0.0

    ious: dict[tuple[int, int], float] = {}

    def iou_of(a: dict[str, Any], b: dict[str, Any]) -> float:
        if (id(a), id(b)) not in ious:
            ious[id(a), id(b)] = track_iou(decoded[id(a)], decoded[id(b)])
        return ious[id(a), id(b)]

    decoded = {id(t): pixels(t) for t in [*data["annotations"], *results]}
    area = {key: mean_area(value) for key, value in decoded.items()}
    values: dict[str, list[float]] = {}
    for category in (c["id"] for c in data["categories"]):
        for label, (low, high) in AREAS.items():
            for limit in MAX_DETECTIONS:
                for threshold in THRESHOLDS:
                    found: list[tuple[float, bool]] = []  # score, right
                    targets = 0
                    for video in data["videos"]:
                        mine = [
                            t
                            for t in data["annotations"]
                            if (t["video_id"], t["category_id"]) == (video["id"], category)
                        ]
                        skip = {id(t): bool(t["iscrowd"]) or not low <= area[id(t)] <= high for t in mine}
                        targets += sum(not s for s in skip.values())
                        mine.sort(key=lambda t: skip[id(t)])
                        theirs = [r for r in results if (r["video_id"], r["category_id"]) == (video["id"], category)]
                        theirs.sort(key=lambda r: -r["score"])
                        used: set[int] = set()
                        for result in theirs[:limit]:
                            best, match = threshold, None
                            for truth in mine:
                                if id(truth) in used and not truth["iscrowd"]:
                                    continue
                                if match is not None and not skip[id(match)] and skip[id(truth)]:
                                    break
                                iou = iou_of(result, truth)
                                if iou >= best:
                                    best, match = iou, truth
                            if match is not None:
                                used.add(id(match))
                                if not skip[id(match)]:
                                    found.append((result["score"], True))
                            elif low <= area[id(result)] <= high:
                                found.append((result["score"], False))
                    if not targets:
                        continue
                    found.sort(key=lambda f: -f[0])
                    points, right = [], 0
                    for rank, (_, good) in enumerate(found, 1):
                        right += good
                        points.append((right / targets, right / rank))
                    values.setdefault(f"recall {label} {limit} ", []).append(right / targets)
                    if limit == 100:
                        for recall in RECALLS:
                            reached = [p for r, p in points if r >= recall]
                            key = f"precision {label} {threshold:.2f}"
                            values.setdefault(key, []).append(max(reached, default=0.0))

    def mean(prefix: str) -> float:
        chosen = [v for key, some in values.items() if key.startswith(prefix) for v in some]
        return sum(chosen) / len(chosen) if chosen else math.nan

    bins = ("small", "medium", "large")
    return {
        "AP": mean("precision all "),
        "AP50": mean("precision all 0.50"),
        "AP75": mean("precision all 0.75"),
        **{f"AP{k[0]}": mean(f"precision {k} ") for k in bins},
        **{f"AR{n}": mean(f"recall all {n} ") for n in MAX_DETECTIONS},
        **{f"AR{k[0]}": mean(f"recall {k} 100 ") for k in bins},
    }
