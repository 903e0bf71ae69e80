"""The engine on a tiny random network: what it promises holds whatever the weights are."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from instformer_ros import masks as rle
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.devices import find_device
from instformer_ros.engine import Engine
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.proposals import rank_score
from instformer_ros.model.vocabulary import TextEncoder, class_scores
from instformer_ros.preprocess import network_size
from instformer_ros.settings import Settings
from instformer_ros.structures import Detection, InstformerError, Session, TrackedFrame, TrackState
from instformer_ros.tracking.duplicates import drop_duplicates, overlaps
from instformer_ros.tracking.tracker import Gates, ManagedTracker, SlotTracker, mean_tokens
from instformer_ros.weights import checkpoint

Image = NDArray[np.uint8]
CPU = torch.device("cpu")
WORDS = ("red circle", "blue star", "mug")
LOOSE = Settings(
    score_threshold=0, objectness_threshold=0, keep_threshold=0, duplicate_threshold=1, negatives=False,
    class_scores=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> InstFormer:
    return tiny.model()


@pytest.fixture
def engine(network: InstFormer) -> Engine:
    made = Engine(copy.deepcopy(network), CPU, LOOSE)
    made.set_vocabulary(WORDS)
    return made


def frames_of(seed: int, count: int = 6) -> list[Image]:
    video = ToyVideo(seed)
    return [video.frame(t)[0] for t in range(count)]


def same(
    first: TrackedFrame, second: TrackedFrame, ids: Mapping[int, int] | None = None, tolerance: float = 0.0
) -> None:
    """Are two answers equal, up to a renaming of IDs and, with a tolerance, to rounding?"""
    assert (first.height, first.width, first.frame_index) == (second.height, second.width, second.frame_index)
    renamed = {a.track_id: a.track_id if ids is None else ids[a.track_id] for a in first.instances}
    assert [renamed[a.track_id] for a in first.instances] == [b.track_id for b in second.instances]
    for a, b in zip(first.instances, second.instances, strict=True):
        assert (a.state, a.age, a.frames_since_seen) == (b.state, b.age, b.frames_since_seen)
        assert abs(a.score - b.score) <= tolerance
        assert abs(a.objectness - b.objectness) <= tolerance
        assert a.class_scores is not None
        assert b.class_scores is not None
        assert np.abs(a.class_scores - b.class_scores).max() <= tolerance
        if tolerance:  # a pixel whose logit is nought but for rounding may fall either way
            assert np.count_nonzero(rle.decode(a.rle) != rle.decode(b.rle)) <= 20
        else:
            assert a.rle == b.rle
            assert (a.class_index, a.class_name, a.box) == (b.class_index, b.class_name, b.box)


def pairing(first: Sequence[TrackedFrame], second: Sequence[TrackedFrame]) -> dict[int, int]:
    """IDs of one run to those of another, by order of birth."""
    numbers = [sorted({i.track_id for frame in run for i in frame.instances}) for run in (first, second)]
    return dict(zip(*numbers, strict=True))


# -- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life_cycle", ["managed", "slots"])
def test_streaming_equals_offline(network: InstFormer, engine: Engine, life_cycle: Any) -> None:
    """Frame by frame through the engine, or the whole video in one pass of the network and then tracked."""
    images = frames_of(1, 8)
    engine.settings = replace(LOOSE, life_cycle=life_cycle)
    streamed = [engine.step({"cam": image})["cam"] for image in images]

    small = np.stack([cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA) for image in images])
    with torch.inference_mode():
        seen = network(torch.from_numpy(small).permute(0, 3, 1, 2).float())
    texts = TextEncoder(network.instclip, network.config.clip)(WORDS)
    gates = Gates(0, 0, LOOSE.match_threshold, LOOSE.max_coast)
    kind = {"managed": ManagedTracker, "slots": SlotTracker}[life_cycle]
    tracker = kind(network.rollout, itertools.count(1), gates)
    scores = rank_score(seen.proposals).numpy()
    for t, frame in enumerate(streamed):
        with torch.inference_mode():
            tracks = tracker.update(Detection(seen.proposals.queries[t], seen.tokens[t], scores[t]))
        assert [i.track_id for i in frame.instances] == [track.id for track in tracks]
        assert len(tracks) >= tiny.QUERIES
        for instance, track in zip(frame.instances, tracks, strict=True):
            scale = network.instclip.clip.logit_scale.detach()
            wanted = class_scores(mean_tokens([track])[0], texts, None, scale).numpy()
            assert instance.class_scores is not None
            assert np.abs(instance.class_scores - wanted).max() < 1e-5
            assert instance.objectness == pytest.approx(track.objectness, abs=1e-5)
            assert instance.score == pytest.approx(float(wanted.max()) * track.objectness, abs=1e-5)
            assert instance.class_name == WORDS[int(wanted.argmax())]
            assert instance.state == track.state
            mask = np.zeros((192, 256), bool)
            if track.proposal is not None:
                logits = seen.proposals.mask_logits[t, track.proposal][None, None]
                mask = (F.interpolate(logits, (192, 256), mode="bilinear")[0, 0] > 0).numpy()
            assert np.count_nonzero(mask != rle.decode(instance.rle)) <= 20


def test_the_tracks_are_worth_comparing(engine: Engine) -> None:
    """Guards the tests of this file: the random network does see, lose and keep things."""
    answers = [engine.step({"cam": image})["cam"] for image in frames_of(1, 8)]
    states = {i.state for frame in answers for i in frame.instances}
    areas = {rle.area(i.rle) for frame in answers for i in frame.instances}
    assert {TrackState.NEW, TrackState.TRACKED} <= states
    assert len(areas) > 10
    assert len({i.class_name for frame in answers for i in frame.instances}) > 1


@pytest.mark.parametrize("life_cycle", ["managed", "slots"])
def test_reset_reproduces_a_run_exactly_up_to_the_ids(engine: Engine, life_cycle: Any) -> None:
    engine.settings = replace(LOOSE, life_cycle=life_cycle)
    images = frames_of(2)
    runs = []
    for _ in range(2):
        runs.append([engine.step({"cam": image})["cam"] for image in images])
        engine.reset()
    ids = pairing(*runs)
    assert len({new - old for old, new in ids.items()}) == 1, "one offset for all"
    assert min(ids.values()) > max(ids), "IDs go on"
    for first, second in zip(*runs, strict=True):
        same(first, second, ids)


def test_reset_of_one_camera_leaves_the_others(engine: Engine) -> None:
    image = frames_of(3, 1)[0]
    engine.step({"a": image, "b": image})
    engine.reset("a")
    engine.reset("nobody")
    after = engine.step({"a": image, "b": image})
    assert after["a"].frame_index == 0
    assert after["b"].frame_index == 1
    assert {i.state for i in after["a"].instances} == {TrackState.NEW}
    assert {i.state for i in after["b"].instances} == {TrackState.TRACKED}


def test_several_cameras_at_once_are_each_alone(engine: Engine, network: InstFormer) -> None:
    videos = {"left": frames_of(4), "right": frames_of(5), "small": [f[:100, :180] for f in frames_of(6)]}
    names = list(videos)
    together: dict[str, list[TrackedFrame]] = {name: [] for name in names}
    for t in range(6):
        present = {name: videos[name][t] for name in names if not (name == "right" and t == 3)}  # one drops a frame
        answer = engine.step(present)
        assert list(answer) == list(present)
        for name, frame in answer.items():
            together[name].append(frame)
    everybody = [{i.track_id for f in together[name] for i in f.instances} for name in names]
    assert sum(map(len, everybody)) == len(set().union(*everybody)), "cameras share no ID"
    for name in names:
        alone = Engine(copy.deepcopy(network), CPU, LOOSE)
        alone.set_vocabulary(WORDS)
        images = [image for t, image in enumerate(videos[name]) if not (name == "right" and t == 3)]
        answers = [alone.step({name: image})[name] for image in images]
        ids = pairing(together[name], answers)
        for first, second in zip(together[name], answers, strict=True):
            same(first, second, ids, tolerance=1e-5)


def test_no_camera_no_answer(engine: Engine) -> None:
    assert engine.step({}) == {}


def test_a_change_of_life_cycle_starts_anew_with_new_ids(engine: Engine) -> None:
    image = frames_of(3, 1)[0]
    before = engine.step({"cam": image})["cam"]
    engine.settings = replace(LOOSE, life_cycle="slots")
    after = engine.step({"cam": image})["cam"]
    assert min(i.track_id for i in after.instances) > max(i.track_id for i in before.instances)
    assert len(after.instances) == tiny.QUERIES


# -- words ------------------------------------------------------------------------------------------------------------


def test_an_engine_that_takes_over_numbers_on(network: InstFormer) -> None:
    """As after `cleanup` and `configure`: no ID and no version of the vocabulary comes twice."""
    session, picture = Session(), frames_of(3, 1)[0]
    seen: list[set[int]] = []
    for version in (1, 2):
        made = Engine(copy.deepcopy(network), CPU, LOOSE, session=session)
        assert made.set_vocabulary(WORDS).version == version
        frame = made.step({"a": picture})["a"]
        assert frame.vocabulary.version == version
        seen.append({i.track_id for i in frame.instances})
        made.close()
    assert seen[0] and seen[1] and min(seen[1]) > max(seen[0])


def test_new_words_keep_the_ids_and_count_up(engine: Engine) -> None:
    images = frames_of(1, 4)
    assert engine.vocabulary.version == 1
    first = engine.step({"cam": images[0]})["cam"]
    encoded = engine.encode_vocabulary(["green ring", " Yellow cross ", "GREEN RING"])
    assert engine.vocabulary.names == WORDS, "encoding alone changes nothing"
    second = engine.step({"cam": images[1]})["cam"]
    assert second.vocabulary.version == 1
    assert engine.use_vocabulary(encoded).version == 2
    third = engine.step({"cam": images[2]})["cam"]
    assert third.vocabulary.names == ("green ring", "Yellow cross")
    assert third.vocabulary.version == 2
    ids = [i.track_id for i in first.instances]
    for answer in (second, third):
        assert set(ids) <= {i.track_id for i in answer.instances}
    for instance in third.instances:
        assert instance.class_name == third.vocabulary.names[instance.class_index]
        assert instance.class_scores is not None
        assert instance.class_scores.shape == (2,)
    assert engine.use_vocabulary(encoded).version == 3, "the same words again are a new version"


def test_the_words_do_not_touch_the_tracks(engine: Engine, network: InstFormer) -> None:
    """A change of words midway leaves the tracks exactly as another engine's, which never changed them."""
    other = Engine(copy.deepcopy(network), CPU, LOOSE)
    other.set_vocabulary(["green ring"])
    for t, image in enumerate(frames_of(7)):
        a, b = engine.step({"cam": image})["cam"], other.step({"cam": image})["cam"]
        assert [(i.track_id, i.state, i.rle, i.objectness) for i in a.instances] == [
            (i.track_id, i.state, i.rle, i.objectness) for i in b.instances
        ]
        if t == 2:
            engine.set_vocabulary(["green ring"])
        if t >= 2 + 1:  # the class is a mean over all frames, so it survives as well
            same(a, b)


def test_without_words_everything_is_tracked(engine: Engine) -> None:
    image = frames_of(1, 1)[0]
    named = engine.step({"cam": image})["cam"]
    for blank in ([], [""], [" "]):
        engine.set_vocabulary(blank)
        answer = engine.step({"cam": image})["cam"]
        assert answer.vocabulary.names == ()
        assert {i.track_id for i in answer.instances} == {i.track_id for i in named.instances}
        for instance in answer.instances:
            assert (instance.class_index, instance.class_name) == (-1, "")
            assert instance.score == instance.objectness
            assert instance.class_scores is None


def test_bad_words_leave_the_old_ones_in_force(engine: Engine) -> None:
    with pytest.raises(InstformerError, match="use at most 200"):
        engine.set_vocabulary(["x" * 300])
    assert (engine.vocabulary.version, engine.vocabulary.names) == (1, WORDS)


def test_unknown_words_are_named(engine: Engine) -> None:
    assert engine.unknown_words == ()
    engine.set_vocabulary(["zebra", "red mug", "okapi"])
    assert engine.unknown_words == ("zebra", "okapi")


def test_a_fresh_engine_knows_no_words(network: InstFormer) -> None:
    fresh = Engine(copy.deepcopy(network), CPU)
    assert (fresh.vocabulary.version, fresh.vocabulary.names) == (0, ())


def test_negatives_take_their_share(engine: Engine) -> None:
    engine.set_vocabulary(["mug", "red circle"])  # leaves "green ring" and "yellow cross" as negatives
    image = frames_of(1, 1)[0]
    without = engine.step({"cam": image})["cam"].instances
    engine.reset()
    engine.settings = replace(LOOSE, negatives=True)
    within = engine.step({"cam": image})["cam"].instances
    assert len(without) == len(within) == tiny.QUERIES
    for a, b in zip(without, within, strict=True):
        assert a.class_scores is not None
        assert b.class_scores is not None
        assert float(a.class_scores.sum()) == pytest.approx(1, abs=1e-5)
        assert float(b.class_scores.sum()) < 1 - 1e-3
        assert b.class_scores[0] / b.class_scores[1] == pytest.approx(a.class_scores[0] / a.class_scores[1], rel=1e-3)
        assert b.class_name in ("mug", "red circle")


def test_one_vocabulary_holds_for_a_whole_frame(engine: Engine) -> None:
    """Words are swapped by another thread while frames run: no answer may mix two vocabularies."""
    choices = [engine.encode_vocabulary(names) for names in (["mug"], ["red circle", "blue star", "green ring"], [])]
    done = threading.Event()

    def swap() -> None:
        for encoded in itertools.cycle(choices):
            if done.is_set():
                return
            engine.use_vocabulary(encoded)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        versions = []
        for image in frames_of(1, 12):
            frame = engine.step({"cam": image})["cam"]
            versions.append(frame.vocabulary.version)
            seen.add(frame.vocabulary.names)
            for i in frame.instances:
                assert i.class_name == (frame.vocabulary.names[i.class_index] if frame.vocabulary.names else "")
                assert (0 if i.class_scores is None else len(i.class_scores)) == len(frame.vocabulary.names)
    finally:
        done.set()
        thread.join()
    assert versions == sorted(versions)
    assert len(seen) > 1


# -- settings ---------------------------------------------------------------------------------------------------------


def test_the_score_gates_publication_only(engine: Engine) -> None:
    images = frames_of(1, 3)
    every = engine.step({"cam": images[0]})["cam"].instances
    engine.settings = replace(LOOSE, score_threshold=1.0)
    assert engine.step({"cam": images[1]})["cam"].instances == []
    engine.settings = LOOSE
    back = engine.step({"cam": images[2]})["cam"].instances
    assert {i.track_id for i in every} <= {i.track_id for i in back}
    assert all(i.age == 3 for i in back if i.track_id in {e.track_id for e in every})


def test_the_best_are_published_where_there_are_too_many(engine: Engine) -> None:
    image = frames_of(1, 1)[0]
    every = engine.step({"cam": image})["cam"].instances
    engine.reset()
    engine.settings = replace(LOOSE, max_instances=2)
    few = engine.step({"cam": image})["cam"].instances
    assert sorted(i.score for i in few) == sorted(i.score for i in every)[-2:]
    assert [i.track_id for i in few] == sorted(i.track_id for i in few)


def test_scores_come_only_when_asked_for(engine: Engine) -> None:
    engine.settings = replace(LOOSE, class_scores=False)
    assert all(i.class_scores is None for i in engine.step({"cam": frames_of(1, 1)[0]})["cam"].instances)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score_threshold": 1.5}, "score_threshold is 1.5; use 0.0 to 1.0"),
        ({"objectness_threshold": -0.1}, "objectness_threshold is -0.1; use 0.0 to 1.0"),
        ({"keep_threshold": float("nan")}, "keep_threshold is nan; use 0.0 to 1.0"),
        ({"duplicate_threshold": 2}, "duplicate_threshold is 2; use 0.0 to 1.0"),
        ({"match_threshold": -1.1}, "match_threshold is -1.1; use -1.0 to 1.0"),
        ({"max_coast": -1}, "max_coast is -1; use 0 to 100000"),
        ({"max_instances": 0}, "max_instances is 0; use 1 to 1000"),
        ({"life_cycle": "forever"}, "life_cycle is 'forever'; use one of managed, slots"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InstformerError) as caught:
        replace(Settings(), **change)
    assert str(caught.value) == says


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


# -- loading and devices ----------------------------------------------------------------------------------------------


def test_a_loaded_engine_answers_as_the_one_saved(tmp_path: Path, network: InstFormer) -> None:
    path = tmp_path / "tiny.safetensors"
    rounded = copy.deepcopy(network)
    rounded.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in rounded.state_dict().items()}
    )
    checkpoint.save(network, path, {"clip": "Apache-2.0"})
    answers = []
    for made in (Engine.load(path, "cpu", LOOSE), Engine(rounded, CPU, LOOSE)):
        made.set_vocabulary(WORDS)
        answers.append(made.step({"cam": frames_of(1, 1)[0]})["cam"])
    same(*answers)
    twins, drawn = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        twins.append(Engine.load(str(path), "cpu", LOOSE, untrained=True))
        drawn.append(float(torch.rand(())))
    assert drawn[0] != drawn[1], "the caller's random numbers are not seeded anew"
    first, second = (twin.step({"cam": frames_of(1, 1)[0]})["cam"] for twin in twins)
    assert [i.rle for i in first.instances] == [i.rle for i in second.instances]
    assert [i.rle for i in first.instances] != [i.rle for i in answers[0].instances]


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/file.safetensors", "here.safetensors"])
def test_a_missing_model_is_named(model: str) -> None:
    with pytest.raises(InstformerError) as caught:
        Engine.load(model, "cpu")
    assert model in str(caught.value) or "models/" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices() -> None:
    assert find_device("cpu") == CPU
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "", "cuda:x", "meta", "mps"):
        with pytest.raises(InstformerError) as caught:
            find_device(name)
        assert f"'{name}'" in str(caught.value)
        assert "auto" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(InstformerError, match="device 'cuda' does not exist, this machine has 0 CUDA devices"):
        find_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_answers_as_the_cpu(engine: Engine, network: InstFormer) -> None:
    there = Engine(copy.deepcopy(network), find_device("cuda"), LOOSE)
    there.set_vocabulary(WORDS)
    for image in frames_of(1, 4):
        same(engine.step({"cam": image})["cam"], there.step({"cam": image})["cam"], tolerance=5e-3)


def test_warming_up_touches_no_track(engine: Engine) -> None:
    image = frames_of(1, 1)[0]
    engine.warm_up(100, 120)
    frame = engine.step({"cam": image})["cam"]
    assert frame.frame_index == 0
    assert min(i.track_id for i in frame.instances) == 1


def test_timings_name_the_stages_in_order(engine: Engine) -> None:
    timings = engine.step({"cam": frames_of(1, 1)[0]})["cam"].timings
    assert list(timings) == ["preprocess", "proposals", "instclip", "association", "masks"]
    assert all(seconds > 0 for seconds in timings.values())


def test_a_closed_engine_keeps_no_words(network: InstFormer) -> None:
    engine = Engine(copy.deepcopy(network), find_device("cpu"), LOOSE)
    engine.set_vocabulary(WORDS)
    assert engine._words._texts._memory and len(engine._words.active.encoded.embeddings)
    engine.close()
    assert not engine._words._texts._memory and not len(engine._words.active.encoded.embeddings)
    assert all(parameter.is_meta for parameter in engine._model.parameters())
