"""Real videos with known tracks, made on the fly; their true masks as proposals for the tracker.

They need the DAVIS-2016 and COCO samples in ``shared/data``, beside the repository or above it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instformer_ros import masks as mask_tools
from instformer_ros.data.cutouts import CutoutVideo
from instformer_ros.data.panoptic import read_panoptic
from instformer_ros.data.tiled import TiledVideo
from instformer_ros.engine import Engine
from instformer_ros.evaluation.tracking import mask_iou
from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.settings import Settings
from instformer_ros.structures import Detection, InstformerError
from instformer_ros.tracking.tracker import Gates, ManagedTracker

_FOLDERS = (parent / "shared" / "data" for parent in Path(__file__).resolve().parents)
DATA = next((folder for folder in _FOLDERS if folder.is_dir()), None)
FOUR = ("blackswan", "car-shadow", "dog", "libby")

pytestmark = pytest.mark.skipif(DATA is None, reason="needs shared/data (DAVIS 2016 and COCO samples)")


def tiled(**size: int) -> TiledVideo:
    assert DATA is not None
    return TiledVideo(DATA / "davis2016", FOUR, **size)


def cutouts(seed: int) -> CutoutVideo:
    assert DATA is not None
    stills = read_panoptic(DATA / "coco_ccby" / "panoptic_val2017.json", DATA / "coco_ccby" / "val2017")
    return CutoutVideo(stills, seed)


def test_panoptic_things_have_their_names_and_masks() -> None:
    assert DATA is not None
    stills = read_panoptic(DATA / "coco_ccby" / "panoptic_val2017.json", DATA / "coco_ccby" / "val2017")
    assert len(stills.classes) == 80 and sum(len(v.names) for v in stills.videos) == 120  # and one crowd
    for video in stills.videos[:3]:
        image, masks = video.frame(0)
        assert image.shape[:2] == masks.shape[1:] and masks.any((1, 2)).all()
        assert not (masks.sum(0) > 1).any()  # panoptic segments do not overlap


def test_the_tiled_video_holds_one_track_a_quadrant() -> None:
    video = tiled()
    assert (video.length, video.names) == (40, FOUR)
    image, masks = video.frame(20)
    assert image.shape == (384, 640, 3) and masks.shape == (4, 384, 640)
    for k, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        assert len(rows) > 1000 and set(rows // 192) == {k // 2} and set(columns // 320) == {k % 2}
    with pytest.raises(InstformerError, match="3 sequences to tile; give four"):
        TiledVideo(".", FOUR[:3])
    with pytest.raises(InstformerError, match=r"folder of pictures .*bear.* not there"):
        TiledVideo(DATA / "davis2016", (*FOUR[:3], "bear"))  # type: ignore[operator]


def test_cut_outs_move_cover_each_other_and_repeat_themselves() -> None:
    video = cutouts(0)
    assert 3 <= len(video.names) <= 5
    first, last = video.frame(0), video.frame(video.length - 1)
    assert np.array_equal(first[0], cutouts(0).frame(0)[0]) and not np.array_equal(first[0], cutouts(1).frame(0)[0])
    for masks in (first[1], last[1]):
        assert not (masks.sum(0) > 1).any()  # visible parts only
    assert not np.array_equal(first[1], last[1])
    alone = (first[0] != last[0]).any(-1) & ~first[1].any(0) & ~last[1].any(0)
    assert not alone.any()  # the background stands still


def look(image: np.ndarray, masks: np.ndarray) -> Detection:
    """What a perfect network would see, without one: place as the query (soft 8×8 grid), colours as the token (4³)."""
    height, width = masks.shape[1:]
    grid = (np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2) + 0.5) / 8
    queries, tokens = np.zeros((len(masks), 64)), np.zeros((len(masks), 64))
    for k, mask in enumerate(masks):
        centre = np.argwhere(mask).mean(0)[::-1] / (width, height)
        queries[k] = np.exp(-((grid - centre) ** 2).sum(1) / (2 * 0.1**2))
        bins = image[mask].astype(int) // 64
        tokens[k] = np.sqrt(np.bincount(bins @ (16, 4, 1), minlength=64))
        tokens[k] /= np.linalg.norm(tokens[k])
    return Detection(
        torch.from_numpy(queries).float(), torch.from_numpy(tokens).float(), np.ones(len(masks), np.float32)
    )


def kept(video: Any, seed: int = 0) -> tuple[int, int]:
    """Sightings that bear the identity which their object had first, of all later sightings."""
    rng = np.random.default_rng(seed)
    tracker = ManagedTracker(RolloutTracker(RolloutConfig(), 128).requires_grad_(False), itertools.count(1), Gates())
    first: dict[int, int] = {}
    right = later = 0
    for t in range(video.length):
        image, masks = video.frame(t)
        visible = rng.permutation(np.flatnonzero(masks.sum((1, 2)) >= 60))  # the order tells nothing
        tracks = tracker.update(look(image, masks[visible]))
        now = {int(visible[track.proposal]): track.id for track in tracks if track.proposal is not None}
        later += sum(int(k) in first for k in visible)
        right += sum(first[k] == i for k, i in now.items() if k in first)
        first = {**now, **first}
    return right, later


def test_true_masks_keep_their_identities_on_the_tiled_video() -> None:
    right, later = kept(tiled())
    assert (right, later) == (4 * 39, 4 * 39)


def test_true_masks_keep_their_identities_on_cut_outs() -> None:
    results = [kept(cutouts(seed)) for seed in range(4)]
    right, later = (sum(column) for column in zip(*results, strict=True))
    print(f"cut-outs: {right} of {later} identities kept")
    assert later > 300 and right / later >= 0.9


@pytest.mark.parametrize("kind", ["tiled", "cutouts"])
def test_the_embedded_model_follows_what_it_has_never_seen(kind: str) -> None:
    """It knows generated shapes alone: with true masks as proposals it must beat chance, which is one in four."""
    video: Any = tiled(height=192, width=256) if kind == "tiled" else cutouts(0)
    engine = Engine.load("toyvis", "cpu", Settings(score_threshold=0.0))
    same = pairs = 0
    before: dict[int, int] = {}
    for t in range(0, 24, 2):
        image, masks = video.frame(t)
        visible = np.flatnonzero(masks.sum((1, 2)) >= 60)
        frame = engine.step_with_masks({"c": image}, {"c": masks[visible]})["c"]
        seen = [i for i in frame.instances if mask_tools.area(i.rle) > 0]
        overlap = mask_iou(mask_tools.encode_many(masks[visible]), [i.rle for i in seen])
        now = {}
        for row, k in enumerate(visible):
            if seen and overlap[row].max() > 0.3:
                now[int(k)] = seen[int(overlap[row].argmax())].track_id
        pairs += len(before.keys() & now.keys())
        same += sum(before[k] == now[k] for k in before.keys() & now.keys())
        before = now
    engine.close()
    print(f"{kind}: {same} of {pairs} identities kept from frame to frame")
    assert pairs >= 30, "the tracker lost the objects themselves"
    assert same / pairs > 0.25
