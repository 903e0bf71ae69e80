"""Average precision and recall of whole mask tracks, by the rules of the YouTube-VIS evaluator (Yang et al. 2019).

COCO's evaluation with tracks in place of masks: the IoU of two tracks is the sum of their intersections over all
frames divided by the sum of their unions. Input are the benchmark's own json structures (ground truth: ``videos``,
``annotations``, ``categories``; predictions: a list of ``video_id, category_id, score, segmentations``).

* ``null`` in ``segmentations`` means "no mask in this frame", an empty mask "a mask of zero pixels". Neither adds an
  intersection, and neither counts in the mean area; but an empty mask has a size, and it must be the video's.
* Annotations with ``iscrowd`` (or ``ignore``) are no targets, and predictions that match them are neither right nor
  wrong; several predictions may match the same crowd. As in the public evaluator, crowds have no IoU of their own.
* The limit of 1, 10 or 100 detections holds for each video and class, which is what the public evaluator does.
* A track that is shorter or longer than its video is refused; cutting it would change its IoU unseen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from instformer_ros import masks as mask_tools
from instformer_ros.structures import InstformerError, Rle

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
AREAS: dict[str, tuple[float, float]] = {  # mean pixels over the frames in which the track has any
    "all": (0.0, 1e10),
    "small": (0.0, 128.0**2),
    "medium": (128.0**2, 256.0**2),
    "large": (256.0**2, 1e10),
}
MAX_DETECTIONS = (1, 10, 100)

_LOW = np.array([low for low, _ in AREAS.values()])[:, None]  # (A, 1)
_HIGH = np.array([high for _, high in AREAS.values()])[:, None]
_LIMITS = np.minimum(THRESHOLDS, 1 - 1e-10)  # an IoU of 1 passes every threshold

Track = tuple[Rle | None, ...]  # one entry a frame


@dataclass(frozen=True)
class Scores:
    """Precision and recall of every setting; NaN where a class has no ground truth.

    ``precision`` is (T, R, K, A, M) and ``recall`` (T, K, A, M): T IoU thresholds, R recall points, K ``categories``
    (ids; a single None if class-agnostic), A areas, M limits of detections. All values are in [0, 1].
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    categories: tuple[int | None, ...]

    def ap(self, threshold: float | None = None, area: str = "all", category: int | None = None) -> float:
        """Mean precision over recall, classes with ground truth and thresholds (or at one ``threshold``); else NaN."""
        values = self.precision[self._thresholds(threshold)][:, :, :, list(AREAS).index(area), -1]
        return _mean(values if category is None else values[:, :, self.categories.index(category)])

    def ar(self, detections: int = 100, area: str = "all", category: int | None = None) -> float:
        """Mean of the highest recall with at most ``detections`` (1, 10 or 100) a video and class; NaN if undefined."""
        values = self.recall[:, :, list(AREAS).index(area), MAX_DETECTIONS.index(detections)]
        return _mean(values if category is None else values[:, self.categories.index(category)])

    def summary(self) -> dict[str, float]:
        """The evaluator's twelve numbers, in its order."""
        areas = {"s": "small", "m": "medium", "l": "large"}
        return {
            "AP": self.ap(),
            "AP50": self.ap(0.5),
            "AP75": self.ap(0.75),
            **{f"AP{letter}": self.ap(area=area) for letter, area in areas.items()},
            **{f"AR{limit}": self.ar(limit) for limit in MAX_DETECTIONS},
            **{f"AR{letter}": self.ar(area=area) for letter, area in areas.items()},
        }

    def select(self, categories: Collection[int]) -> Scores:
        """The scores of some of the categories alone."""
        kept = [k for k, c in enumerate(self.categories) if c in categories]
        return Scores(self.precision[:, :, kept], self.recall[:, kept], tuple(self.categories[k] for k in kept))

    def per_class(self) -> dict[int | None, dict[str, float]]:
        """AP, AP50 and AR10 of every class that has ground truth, by category id."""
        present = [c for k, c in enumerate(self.categories) if not np.isnan(self.recall[0, k, 0, -1])]
        if None in present:
            return {None: {"AP": self.ap(), "AP50": self.ap(0.5), "AR10": self.ar(10)}}
        return {
            c: {"AP": self.ap(category=c), "AP50": self.ap(0.5, category=c), "AR10": self.ar(10, category=c)}
            for c in present
        }

    @staticmethod
    def _thresholds(threshold: float | None) -> slice | list[int]:
        if threshold is None:
            return slice(None)
        return [int(np.flatnonzero(np.isclose(THRESHOLDS, threshold))[0])]


@dataclass
class _Video:
    """One video's tracks and what the matching needs of them; G annotations, D predictions."""

    height: int
    width: int
    length: int
    truths: list[Track] = field(default_factory=list)
    truth_ids: list[int] = field(default_factory=list)
    truth_categories: list[int] = field(default_factory=list)
    truth_areas: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)  # distinct predictions: one track may bear several classes
    known: dict[tuple[bytes | None, ...], int] = field(default_factory=dict)  # found again by run lengths
    rows: list[int] = field(default_factory=list)  # (D,) row of each prediction
    categories: list[int] = field(default_factory=list)  # (D,)
    scores: list[float] = field(default_factory=list)  # (D,)
    areas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # mean area of each row
    iou: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))  # (rows, G)


class VideoAp:
    """Checks a data set and its predictions and measures all IoUs once; :meth:`score` may then be called repeatedly.

    Args:
        dataset: ground truth, ``{"videos": [...], "annotations": [...], "categories": [...]}``. Segmentations may be
            compressed or plain run lengths, polygons or null. ``areas``, where given, decide the area bin.
        results: predictions; compressed run lengths (str or bytes) or null.

    Raises:
        InstformerError: a key is missing, an id is unknown, or a track does not fit its video.
    """

    def __init__(self, dataset: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> None:
        try:
            self.category_ids = tuple(sorted({int(c["id"]) for c in dataset["categories"]}))
            self._videos = {
                int(v["id"]): _Video(int(v["height"]), int(v["width"]), int(v["length"])) for v in dataset["videos"]
            }
            annotations = list(dataset["annotations"])
        except (KeyError, TypeError, ValueError) as error:
            raise InstformerError(
                f"ground truth: missing or bad key {error}; expected the YouTube-VIS format"
            ) from error
        for number, annotation in enumerate(annotations):
            self._add_truth(annotation, f"annotation {annotation.get('id', number)}")
        for number, result in enumerate(results):
            self._add_prediction(result, f"prediction {number}")
        for video in self._videos.values():
            _measure(video)

    def score(
        self,
        categories: Collection[int] | None = None,
        ignore: Collection[int] = (),
        class_agnostic: bool = False,
    ) -> Scores:
        """Precision and recall over ``categories`` (ids, all by default).

        Args:
            ignore: ids of annotations that are ignored like crowds, and in *every* class, not only in their own.
            class_agnostic: all annotations and predictions count as one class.
        """
        chosen = self.category_ids if categories is None else tuple(sorted(categories))
        ignored = frozenset(ignore)
        groups: tuple[int | None, ...] = (None,) if class_agnostic else chosen
        parts: dict[int | None, list[_Matches]] = defaultdict(list)
        for _, video in sorted(self._videos.items()):
            for group, matches in _match_video(video, frozenset(chosen), ignored, class_agnostic):
                parts[group].append(matches)
        shape = (len(THRESHOLDS), len(RECALLS), len(groups), len(AREAS), len(MAX_DETECTIONS))
        precision = np.full(shape, np.nan)
        recall = np.full((shape[0], *shape[2:]), np.nan)
        for k, group in enumerate(groups):
            if parts[group]:
                _curves(parts[group], precision[:, :, k], recall[:, k])
        return Scores(precision, recall, groups)

    def _add_truth(self, annotation: Mapping[str, Any], name: str) -> None:
        video, category, track = self._common(annotation, name)
        _check(track, name)
        areas = annotation.get("areas")
        if areas is None:
            areas = [0 if rle is None else int(coco_mask.area(rle)) for rle in track]
        positive = [float(a) for a in areas if a]
        video.truths.append(track)
        video.truth_ids.append(int(annotation.get("id", -1)))
        video.truth_categories.append(category)
        video.truth_areas.append(math.fsum(positive) / len(positive) if positive else 0.0)
        video.crowd.append(bool(annotation.get("iscrowd", 0)))
        video.ignore.append(bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0)))

    def _add_prediction(self, result: Mapping[str, Any], name: str) -> None:
        video, category, track = self._common(result, name)
        try:
            score = float(result["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise InstformerError(f"{name}: 'score' is missing or no number") from error
        if not math.isfinite(score):
            raise InstformerError(f"{name}: 'score' is {score}; expected a finite number")
        key = tuple(None if rle is None else rle["counts"] for rle in track)
        row = video.known.setdefault(key, len(video.tracks))
        if row == len(video.tracks):
            _check(track, name)
            video.tracks.append(track)
        video.rows.append(row)
        video.categories.append(category)
        video.scores.append(score)

    def _common(self, entry: Mapping[str, Any], name: str) -> tuple[_Video, int, Track]:
        try:
            video_id, category = int(entry["video_id"]), int(entry["category_id"])
            segmentations: Sequence[Any] = entry["segmentations"]
            length = len(segmentations)
        except (KeyError, TypeError, ValueError) as error:
            raise InstformerError(f"{name}: missing or bad key {error}; expected the YouTube-VIS format") from error
        video = self._videos.get(video_id)
        if video is None:
            raise InstformerError(f"{name}: video {video_id} is not in the ground truth")
        if category not in self.category_ids:
            raise InstformerError(f"{name}: category {category} is not in the ground truth")
        if length != video.length:
            raise InstformerError(
                f"{name}: {length} segmentations, but video {video_id} has {video.length} frames; write null where "
                "there is no mask"
            )
        return video, category, _track(segmentations, video.height, video.width, name)


@dataclass
class _Matches:
    """Matching of one video and class: D predictions, best first; G annotations."""

    scores: NDArray[np.float64]  # (D,)
    matched: NDArray[np.bool_]  # (A, T, D)
    ignored: NDArray[np.bool_]  # (A, T, D) neither right nor wrong
    targets: NDArray[np.int64]  # (A,) annotations to be found


def _track(segmentations: Sequence[Any], height: int, width: int, name: str) -> Track:
    track: list[Rle | None] = []
    for t, segmentation in enumerate(segmentations):
        try:
            track.append(mask_tools.parse_unchecked(segmentation, height, width) if segmentation else None)
        except InstformerError as error:
            raise InstformerError(f"{name}, frame {t}: {error}") from error
    return tuple(track)


def _check(track: Track, name: str) -> None:
    """All its masks at once; a track that comes again, under another class, need not be checked again."""
    frames = [t for t, rle in enumerate(track) if rle is not None]
    bad = mask_tools.first_damaged([rle for rle in track if rle is not None])
    if bad is not None:
        try:
            mask_tools.check(track[frames[bad]])  # type: ignore[arg-type]  # no frame without a mask is among them
        except InstformerError as error:
            raise InstformerError(f"{name}, frame {frames[bad]}: {error}") from error


def _measure(video: _Video) -> None:
    """Fills ``iou`` and ``areas``: pixel counts are whole numbers, so the sums are exact."""
    tracks, truths = video.tracks, video.truths
    area, truth_area = _pixels(tracks, video.length), _pixels(truths, video.length)  # (length, D), (length, G)
    intersections = np.zeros((len(tracks), len(truths)))
    for t in range(video.length):
        d, g = np.flatnonzero(area[t]), np.flatnonzero(truth_area[t])
        if d.size and g.size:
            # As for crowds, pycocotools divides by the prediction's area: multiplied back it is the intersection.
            share = coco_mask.iou([tracks[i][t] for i in d], [truths[j][t] for j in g], [1] * g.size)
            intersections[np.ix_(d, g)] += np.rint(share * area[t, d][:, None])
    unions = area.sum(0)[:, None] + truth_area.sum(0)[None, :] - intersections
    video.iou = np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)
    visible = np.count_nonzero(area, axis=0)
    video.areas = area.sum(0) / np.maximum(visible, 1)


def _pixels(tracks: Sequence[Track], length: int) -> NDArray[np.float64]:
    """Area of every mask: (length, tracks); zero for null."""
    pixels = np.zeros((length, len(tracks)))
    for i, track in enumerate(tracks):
        frames = [t for t, rle in enumerate(track) if rle is not None]
        if frames:
            pixels[frames, i] = coco_mask.area([track[t] for t in frames])
    return pixels


def _match_video(
    video: _Video, chosen: frozenset[int], ignored: frozenset[int], class_agnostic: bool
) -> Iterable[tuple[int | None, _Matches]]:
    """One :class:`_Matches` for each class of a video that has annotations or predictions."""
    everywhere = np.array([i in ignored for i in video.truth_ids], dtype=bool)
    crowd = np.array(video.crowd, dtype=bool) | everywhere
    ignore = np.array(video.ignore, dtype=bool) | everywhere
    areas = np.array(video.truth_areas)
    truth_categories, categories = np.array(video.truth_categories, dtype=int), np.array(video.categories, dtype=int)
    rows, scores = np.array(video.rows, dtype=int), np.array(video.scores)
    groups: Sequence[int | None] = [None] if class_agnostic else sorted(chosen & {*truth_categories, *categories})
    for group in groups:
        if group is None:  # the public evaluator joins the classes in the order of their ids
            g = np.argsort(truth_categories, kind="stable")
            g = g[np.isin(truth_categories[g], list(chosen)) | everywhere[g]]
            d = np.argsort(categories, kind="stable")
            d = d[np.isin(categories[d], list(chosen))]
        else:
            g = np.flatnonzero((truth_categories == group) | everywhere)
            d = np.flatnonzero(categories == group)
        if not g.size and not d.size:
            continue
        d = d[np.argsort(-scores[d], kind="stable")][: MAX_DETECTIONS[-1]]
        ignore_g = ignore[g] | (areas[g] < _LOW) | (areas[g] > _HIGH)  # (A, G)
        matched, ignored_d = _match(video.iou[np.ix_(rows[d], g)], crowd[g], ignore_g)
        outside = (video.areas[rows[d]] < _LOW) | (video.areas[rows[d]] > _HIGH)  # (A, D)
        ignored_d |= ~matched & outside[:, None]
        yield group, _Matches(scores[d], matched, ignored_d, np.count_nonzero(~ignore_g, axis=1))


def _match(
    iou: NDArray[np.float64], crowd: NDArray[np.bool_], ignore: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Greedy matching, best prediction first, each to its best free annotation; a true target is preferred.

    Args:
        iou: (D, G), predictions sorted by falling score.
        crowd: (G,) may be matched repeatedly.
        ignore: (A, G) no target in that area range.

    Returns:
        (A, T, D) matched at all, and matched to an ignored annotation.
    """
    count, truths = iou.shape
    shape = (len(ignore), len(_LIMITS), count)
    matched, to_ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    taken = np.zeros((*shape[:2], truths), dtype=bool)
    for d in range(count) if truths else ():
        row = iou[d]
        if row.max() < _LIMITS[0]:
            continue
        fits = (row >= _LIMITS[:, None]) & ~(taken & ~crowd)  # (A, T, G)
        targets = fits & ~ignore[:, None]
        on_target = targets.any(-1)
        fits = np.where(on_target[..., None], targets, fits)
        best = truths - 1 - np.where(fits, row, -1.0)[..., ::-1].argmax(-1)  # among equals, the last
        found = fits.any(-1)
        matched[:, :, d] = found
        to_ignored[:, :, d] = found & ~on_target
        taken |= found[..., None] & (np.arange(truths) == best[..., None])
    return matched, to_ignored


def _curves(parts: list[_Matches], precision: NDArray[np.float64], recall: NDArray[np.float64]) -> None:
    """Fills one class's (T, R, A, M) precision and (T, A, M) recall; leaves NaN where there is nothing to find."""
    scores = np.concatenate([p.scores for p in parts])
    ranks = np.concatenate([np.arange(len(p.scores)) for p in parts])
    order = np.argsort(-scores, kind="stable")
    ranks = ranks[order]
    matched = np.concatenate([p.matched for p in parts], axis=-1)[..., order]
    counted = ~np.concatenate([p.ignored for p in parts], axis=-1)[..., order]
    targets = np.sum([p.targets for p in parts], axis=0)  # (A,)
    for a in np.flatnonzero(targets):
        for m, limit in enumerate(MAX_DETECTIONS):
            kept = ranks < limit
            right = np.cumsum((matched & counted)[a][:, kept], axis=1, dtype=float)  # (T, D)
            wrong = np.cumsum((~matched & counted)[a][:, kept], axis=1, dtype=float)
            found = right / targets[a]
            pure = right / (right + wrong + np.spacing(1))
            pure = np.maximum.accumulate(pure[:, ::-1], axis=1)[:, ::-1]  # best precision at this recall or more
            pure = np.pad(pure, ((0, 0), (0, 1)))  # recalls never reached count as precision 0
            for t in range(len(THRESHOLDS)):
                precision[t, :, a, m] = pure[t, np.searchsorted(found[t], RECALLS, side="left")]
            recall[:, a, m] = found[:, -1] if found.shape[1] else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
