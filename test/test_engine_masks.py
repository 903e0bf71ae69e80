"""The engine on a tiny random network: pictures in, masks out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch
from engine_rig import LOOSE, frames_of, pairing, same
from numpy.typing import NDArray

from instformer_ros import masks as rle
from instformer_ros.engine import Engine
from instformer_ros.model.instformer import InstFormer
from instformer_ros.preprocess import network_size
from instformer_ros.structures import InstformerError, TrackState
from instformer_ros.tracking.duplicates import drop_duplicates, overlaps

# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((48, 64), np.uint8), "uint8 (48, 64)"),
        (np.zeros((48, 64, 4), np.uint8), "uint8 (48, 64, 4)"),
        (np.zeros((48, 64, 3), np.float32), "float32 (48, 64, 3)"),
        (np.zeros((0, 64, 3), np.uint8), "64x0 pixels; use 1 to 16384"),
        (np.zeros((1, 20000, 3), np.uint8), "20000x1 pixels; use 1 to 16384"),
        ([[0]], "list"),
        (None, "NoneType"),
    ],
)
def test_bad_pictures_are_refused_and_nothing_has_changed(engine: Engine, image: Any, says: str) -> None:
    good = frames_of(1, 2)
    engine.step({"front": good[0]})
    with pytest.raises(InstformerError) as caught:
        engine.step({"front": good[1], "rear": image})
    assert says in str(caught.value)
    assert "camera 'rear'" in str(caught.value)
    assert "\n" not in str(caught.value)
    frame = engine.step({"front": good[1]})["front"]
    assert frame.frame_index == 1
    assert {i.age for i in frame.instances if i.state is TrackState.TRACKED} == {2}


@pytest.mark.parametrize("size", [(1, 1), (3, 300), (300, 2), (49, 65), (480, 640)])
def test_every_size_is_answered_in_its_own_pixels(engine: Engine, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frame = engine.step({"cam": image})["cam"]
    assert (frame.height, frame.width) == size
    assert frame.instances
    for instance in frame.instances:
        assert list(instance.rle["size"]) == list(size)
        assert instance.box == rle.box(instance.rle)


def test_views_and_read_only_pictures_are_pictures(engine: Engine) -> None:
    image = frames_of(1, 1)[0]
    bgr = np.ascontiguousarray(image[..., ::-1])
    frozen = image.copy()
    frozen.flags.writeable = False
    wide = np.zeros((192, 300, 3), np.uint8)
    wide[:, 20:276] = image
    answers = []
    for form in (image, bgr[..., ::-1], frozen, wide[:, 20:276], np.asfortranarray(image)):
        engine.reset()
        answers.append(engine.step({"cam": form})["cam"])
    for answer in answers[1:]:
        same(answers[0], answer, pairing(answers[:1], [answer]))


def test_pictures_are_left_as_they_were(engine: Engine) -> None:
    image = cv2.resize(frames_of(1, 1)[0], (64, 48))  # the network's own size: no copy by resizing
    before = image.copy()
    engine.step({"cam": image})
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((480, 640), (48, 64)),
        ((640, 480), (64, 48)),
        ((48, 64), (48, 64)),
        ((24, 32), (48, 64)),
        ((100, 1000), (12, 128)),
        ((100, 180), (48, 88)),
        ((1, 16384), (4, 128)),
    ],
)
def test_network_size(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert network_size(*size, tiny.config()) == wanted


# -- masks ------------------------------------------------------------------------------------------------------------


def blocks(*boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Masks of a 192x256 picture, given in blocks of 16 pixels: row, column, height, width."""
    result = np.zeros((len(boxes), 192, 256), np.bool_)
    for mask, (row, column, height, width) in zip(result, boxes, strict=True):
        mask[16 * row : 16 * (row + height), 16 * column : 16 * (column + width)] = True
    return result


def test_given_masks_come_back_as_tracks(engine: Engine) -> None:
    image = frames_of(1, 1)[0]
    truth = blocks((1, 1, 4, 5), (6, 8, 5, 6))
    frame = engine.step_with_masks({"cam": image}, {"cam": truth})["cam"]
    assert len(frame.instances) == 2
    for instance, mask in zip(frame.instances, truth, strict=True):
        found = rle.decode(instance.rle)
        assert (found & mask).sum() / (found | mask).sum() > 0.97
        assert instance.objectness == pytest.approx(1, abs=1e-4)


def test_given_masks_take_the_query_that_overlaps_best(engine: Engine, network: InstFormer) -> None:
    """Given the network's own masks, hardened, each gets its own row's tracking token: the tracks go on."""
    image = frames_of(1, 1)[0]
    small = cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        logits = network.proposals(torch.from_numpy(small)[None].permute(0, 3, 1, 2).float()).mask_logits[0]
    distinct = [i for i in range(len(logits)) if 0 < (logits[i] > 0).float().mean() < 0.9]
    assert len(distinct) >= 2
    truth = (logits[distinct] > 0).repeat_interleave(16, 1).repeat_interleave(16, 2).numpy()
    before = engine.step({"cam": image})["cam"].instances
    assert [i.track_id for i in before] == [row + 1 for row in range(tiny.QUERIES)]
    after = engine.step_with_masks({"cam": image}, {"cam": truth})["cam"].instances
    seen = {i.track_id: rle.decode(i.rle) for i in after if i.state is TrackState.TRACKED}
    assert sorted(seen) == [row + 1 for row in distinct]
    for row, mask in zip(distinct, truth, strict=True):
        found = seen[row + 1]
        assert (found & mask).sum() / (found | mask).sum() > 0.9


def test_a_track_coasts_ends_once_and_is_gone(engine: Engine) -> None:
    image = frames_of(1, 1)[0]
    engine.settings = replace(LOOSE, max_coast=2)
    nothing = np.zeros((0, 192, 256), np.bool_)
    (born,) = engine.step_with_masks({"cam": image}, {"cam": blocks((2, 3, 4, 4))})["cam"].instances
    assert born.state is TrackState.NEW
    assert rle.area(born.rle) > 0
    for missing, state in ((1, TrackState.COASTING), (2, TrackState.COASTING), (3, TrackState.TERMINATED)):
        (unseen,) = engine.step_with_masks({"cam": image}, {"cam": nothing})["cam"].instances
        assert (unseen.track_id, unseen.state, unseen.frames_since_seen) == (born.track_id, state, missing)
        assert rle.area(unseen.rle) == 0
        assert unseen.box == (0, 0, 0, 0)
        assert list(unseen.rle["size"]) == [192, 256]
        assert unseen.score == pytest.approx(born.score, abs=1e-6)
    assert engine.step_with_masks({"cam": image}, {"cam": nothing})["cam"].instances == []


def test_label_values_stay_within_their_image(engine: Engine) -> None:
    engine._session.track_ids = itertools.count(65534)
    frame = engine.step_with_masks(
        {"cam": frames_of(1, 1)[0]}, {"cam": blocks((0, 0, 3, 3), (5, 5, 3, 3), (8, 11, 3, 3))}
    )["cam"]
    assert [(i.track_id, i.label_value) for i in frame.instances] == [(65534, 65534), (65535, 65535), (65536, 1)]


def test_of_two_proposals_for_one_object_the_better_stays() -> None:
    masks = torch.zeros(6, 10, 10, dtype=torch.bool)
    masks[0, :5] = True
    masks[1, :5, :9] = True  # IoU 0.9 with 0
    masks[2, 5:] = True
    masks[3, :4, :9] = True  # 0.72 with 0, 0.8 with 1
    overlap = overlaps(masks, masks).numpy()
    scores = np.array([0.6, 0.9, 0.5, 0.3, 0.2, 0.1], np.float32)  # 4 and 5 are empty: no duplicates of each other
    assert drop_duplicates(scores, overlap, 0.75).tolist() == pytest.approx([0, 0.9, 0.5, 0, 0.2, 0.1])
    assert drop_duplicates(scores, overlap, 0.85).tolist() == pytest.approx([0, 0.9, 0.5, 0.3, 0.2, 0.1])
    assert drop_duplicates(scores, overlap, 0.95).tolist() == scores.tolist()
    scores[0], scores[1] = 0.9, 0.6
    assert drop_duplicates(scores, overlap, 0.75).tolist() == pytest.approx([0.9, 0, 0.5, 0.3, 0.2, 0.1]), (
        "what is dropped drops no other"
    )
    assert drop_duplicates(np.zeros(0, np.float32), np.zeros((0, 0), np.float32), 0.7).shape == (0,)


def test_duplicates_found_no_tracks(engine: Engine) -> None:
    image, twice = frames_of(1, 1)[0], blocks((1, 1, 4, 5), (1, 1, 4, 5), (6, 8, 5, 6))
    engine.settings = replace(LOOSE, objectness_threshold=0.5, keep_threshold=0.3, duplicate_threshold=0.7)
    assert len(engine.step_with_masks({"cam": image}, {"cam": twice})["cam"].instances) == 2
    engine.reset()
    engine.settings = replace(engine.settings, duplicate_threshold=1)
    assert len(engine.step_with_masks({"cam": image}, {"cam": twice})["cam"].instances) == 3
