"""The engine on a tiny random network: words and settings."""

from __future__ import annotations

import copy
import itertools
import threading
from dataclasses import replace
from typing import Any

import pytest
import tiny
from engine_rig import CPU, LOOSE, WORDS, frames_of, same

from instformer_ros.engine import Engine
from instformer_ros.model.instformer import InstFormer
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError, Session

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
