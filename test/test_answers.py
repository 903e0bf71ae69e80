"""Words and masks of tracks, away from the device."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_rig import LOOSE, WORDS, frames_of
from torch import Tensor
from torch.nn import functional as F

from instformer_ros import masks
from instformer_ros.answers import Naming
from instformer_ros.engine import Engine
from instformer_ros.kept_masks import KeptMasks
from instformer_ros.live_vocabulary import EncodedVocabulary
from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.model.vocabulary import class_scores
from instformer_ros.settings import Settings
from instformer_ros.structures import Detection, TrackedFrame
from instformer_ros.tracking.tracker import Gates, ManagedTracker, SlotTracker, Tracker

WIDTH, SCALE = 16, torch.tensor(2.0)


def words(count: int, seed: int, negatives: int = 2) -> EncodedVocabulary:
    texts = F.normalize(torch.randn(count + negatives, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return EncodedVocabulary(tuple(f"word {i}" for i in range(count)), texts[:count], texts[count:], ())


def trackers(kind: type[Tracker]) -> Tracker:
    torch.manual_seed(0)
    return kind(RolloutTracker(RolloutConfig(), 2 * WIDTH), itertools.count(1), Gates(max_coast=2, similarity=0.5))


@pytest.mark.parametrize("kind", [ManagedTracker, SlotTracker])
@torch.inference_mode()
def test_a_track_has_the_class_of_its_mean_token(kind: type[Tracker]) -> None:
    """Whatever words come and go, tracks are born, coast and end."""
    tracker, naming, generator = trackers(kind), Naming(), torch.Generator().manual_seed(1)
    first, second, none = words(3, 1), words(5, 2), words(0, 3)
    plan = [(first, True)] * 6 + [(second, True)] * 5 + [(none, True)] * 2 + [(first, False)] * 4 + [(first, True)] * 4
    settings = Settings(score_threshold=0, max_instances=1000)
    named_at_all = 0
    for frame, (vocabulary, negatives) in enumerate(plan):
        count = 6 if kind is SlotTracker else 3 + frame % 3
        tokens = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)
        objectness = torch.rand(count, generator=generator).numpy()
        naming.use(vocabulary, negatives, SCALE)
        logits = naming.logits(tokens)
        tracks = tracker.update(Detection(tokens.clone(), tokens, objectness))
        for named in naming.name(tracks, logits.numpy(), settings):
            if vocabulary is none:
                assert (named.class_index, named.class_name, named.class_scores) == (-1, "", None)
                continue
            mean = named.track.token_sum / max(named.track.weight, 1e-6)
            others = vocabulary.negatives if negatives else None
            wanted = class_scores(mean, vocabulary.embeddings, others, SCALE).numpy()
            np.testing.assert_allclose(named.class_scores, wanted, atol=1e-5)
            assert named.class_name == vocabulary.names[int(wanted.argmax())]
            named_at_all += 1
    assert named_at_all > 60


@torch.inference_mode()
def test_no_track_that_has_ended_is_remembered() -> None:
    tracker, naming = trackers(ManagedTracker), Naming()
    naming.use(words(2, 1), True, SCALE)
    for frame in range(40):
        tokens = F.normalize(torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(frame)), dim=-1)
        tracks = tracker.update(Detection(tokens.clone(), tokens, np.full(3, 0.9, np.float32)))
        naming.name(tracks, naming.logits(tokens).numpy(), Settings())
    assert naming._sums is not None and set(naming._sums) == {track.id for track in tracks}
    assert max(naming._sums) > 60 and len(naming._sums) < 20


@torch.inference_mode()
def test_a_frame_that_was_tracked_and_never_named_thins_nothing_out() -> None:
    """As when an error comes between. The class is the mean over the frames that were named."""
    tracker, naming, vocabulary = trackers(ManagedTracker), Naming(), words(2, 1, negatives=0)
    tokens = vocabulary.embeddings[:1].clone()
    for frame in range(20):
        naming.use(vocabulary, True, SCALE)
        tracks = tracker.update(Detection(tokens.clone(), tokens, np.full(1, 0.9, np.float32)))
        if frame in (0, 19):
            (named,) = naming.name(tracks, naming.logits(tokens).numpy(), Settings(score_threshold=0))
    assert named.track.age == 20 and named.class_scores is not None
    wanted = class_scores(tokens[0], vocabulary.embeddings, None, SCALE).numpy()
    np.testing.assert_allclose(named.class_scores, wanted, atol=1e-6)


@torch.inference_mode()
def test_kept_masks_are_those_of_their_rows_at_the_image_s_size() -> None:
    logits = torch.randn(5, 12, 16, generator=torch.Generator().manual_seed(0))
    kept = KeptMasks(logits, [3, 0, 3], 50, 70)
    wanted = [
        (F.interpolate(logits[row, None, None], (50, 70), mode="bilinear")[0, 0] > 0).numpy() for row in (3, 0, 3)
    ]
    logits.fill_(-1)  # the network's memory, which its next pass overwrites
    for _ in range(2):
        seen = kept.encode()
        assert [rle["size"] for rle in seen] == [[50, 70]] * 3
        for rle, mask in zip(seen, wanted, strict=True):
            assert 0.3 < mask.mean() < 0.7
            assert np.count_nonzero(masks.decode(rle) != mask) <= 2  # in transposed order it rounds otherwise
    assert KeptMasks(logits, [], 50, 70).encode() == []
    one = KeptMasks(logits, [1], 50, 70)
    logits.fill_(1)
    assert masks.area(one.encode()[0]) == 0


def fields(frame: TrackedFrame) -> list[Any]:
    rows = []
    for one in frame.instances:
        scores = None if one.class_scores is None else one.class_scores.tolist()
        rows.append((*one.plain_fields().values(), one.box, one.rle["counts"], scores))
    return [frame.height, frame.width, frame.vocabulary, frame.frame_index, rows]


def test_frames_may_be_finished_long_after_later_ones_were_begun(engine: Engine) -> None:
    engine.settings = replace(LOOSE, class_scores=True)
    images = [dict.fromkeys(("left", "right"), image) for image in frames_of(1, 8)]
    at_once = [engine.step(image) for image in images]
    assert any(instance.box[2] for frame in at_once for instance in frame["left"].instances)
    engine.reset()
    engine._session.track_ids = itertools.count(1)
    pending = [engine.begin(image) for image in images]
    later = [{camera: one.finish() for camera, one in frames.items()} for frames in pending]
    for a, b in zip(at_once, later, strict=True):
        assert {camera: fields(frame) for camera, frame in a.items()} == {c: fields(frame) for c, frame in b.items()}
    assert list(later[0]["left"].timings) == ["preprocess", "proposals", "instclip", "association", "masks"]


def test_a_frame_comes_to_the_host_once_before_its_masks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first with other words, whose meaning for the tracks so far is worked out on the device."""
    copies: list[tuple[int, ...]] = []
    cpu = Tensor.cpu

    def counted(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copies.append(tuple(self.shape))
        return cpu(self, *args, **kwargs)

    def forbidden(self: Tensor, *_: Any) -> Any:
        raise AssertionError("a number of its own comes to the host")

    for number, image in enumerate(frames_of(1, 6)):
        if number == 4:
            engine.set_vocabulary([*WORDS, "mug too"])
        copies.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "cpu", counted)
            for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
                patch.setattr(Tensor, name, forbidden)
            engine.begin({"cam": image})
        assert len(copies) == (2 if number in (0, 4) else 1), number


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_waited_for_twice_a_frame() -> None:
    """Once for scores, once for masks: what else waits, torch itself reports."""
    engine = Engine.load("toyvis", "cuda")
    engine.set_vocabulary(["circle", "square"])
    images = frames_of(1, 8)
    for image in images[:4]:
        engine.step({"cam": image})
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for image in images[4:]:
            with pytest.warns(UserWarning, match="synchronizing") as waits:
                pending = engine.begin({"cam": image})["cam"]
            assert len(waits) == 1
            pending.finish()  # an event is waited for, which torch does not report
    finally:
        torch.cuda.set_sync_debug_mode("default")
    engine.close()
