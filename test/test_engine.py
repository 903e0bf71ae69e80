"""The engine on a tiny random network: what it promises holds whatever the weights are."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch
from engine_rig import CPU, LOOSE, WORDS, frames_of, pairing, same
from torch.nn import functional as F

from instformer_ros import masks as rle
from instformer_ros.devices import find_device
from instformer_ros.engine import Engine
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.proposals import rank_score
from instformer_ros.model.vocabulary import TextEncoder, class_scores
from instformer_ros.structures import Detection, InstformerError, TrackedFrame, TrackState
from instformer_ros.tracking.tracker import Gates, ManagedTracker, SlotTracker
from instformer_ros.weights import checkpoint

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
            wanted = class_scores(track.token_sum / max(track.weight, 1e-6), texts, None, scale).numpy()
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
    with pytest.raises(InstformerError, match="closed; load it anew"):
        engine.step({"cam": frames_of(1, 1)[0]})


def test_what_was_begun_is_finished_after_the_engine_has_closed(network: InstFormer) -> None:
    engine = Engine(copy.deepcopy(network), find_device("cpu"), LOOSE)
    pending = engine.begin({"cam": frames_of(1, 1)[0]})["cam"]
    engine.close()
    assert any(instance.box[2] for instance in pending.finish().instances)
