"""A device in trouble: too little memory, and a GPU that is lost. Faults are made up, so no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch

from instformer_ros import devices, shortage
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.devices import device_errors, is_out_of_memory
from instformer_ros.engine import Engine
from instformer_ros.kept_masks import KeptMasks
from instformer_ros.network import Captured
from instformer_ros.settings import Settings
from instformer_ros.shortage import Shortage
from instformer_ros.structures import DeviceLostError, InstformerError

_CPU = torch.device("cpu")
_FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.fixture(scope="module")
def video() -> ToyVideo:
    return ToyVideo(1)


@pytest.fixture
def engine() -> Engine:
    """Sees frames at twice the tiny network's own size, so that there is a half."""
    loose = Settings(score_threshold=0, objectness_threshold=0, keep_threshold=0, duplicate_threshold=1)
    model = tiny.model()
    model.config = replace(model.config, short_side=2 * tiny.SIZE[0], long_side=4 * tiny.SIZE[1])
    made = Engine(model, _CPU, loose)
    made.set_vocabulary(["mug"])
    return made


def limit(engine: Engine, monkeypatch: pytest.MonkeyPatch, fits: Callable[[torch.Size], bool]) -> list[torch.Size]:
    """Lets the network's memory suffice for batches of some shapes only. Returns the shapes it is asked for."""
    asked: list[torch.Size] = []
    run = engine._network._propose

    def limited(images: torch.Tensor) -> Any:
        asked.append(images.shape)
        if not fits(images.shape):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return run(images)

    monkeypatch.setattr(engine._network, "_propose", limited)
    monkeypatch.setattr(engine._network, "_run_proposals", limited)
    return asked


def images_of(video: ToyVideo, *cameras: str) -> dict[str, Any]:
    return {camera: video.frame(0)[0] for camera in cameras}


# -- what an error means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", _FULL, ids=lambda error: type(error).__name__)
def test_what_says_that_memory_is_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    try:
        try:
            raise error
        finally:
            raise RuntimeError("the end of a graph's capture failed, too")
    except RuntimeError as caught:
        assert is_out_of_memory(caught)
    with pytest.raises(InstformerError, match="memory of device 'cpu' does not suffice"), device_errors(_CPU):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), InstformerError("no")])
def test_other_errors_go_through(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, device_errors(_CPU):
        raise error
    assert caught.value is error


def test_a_gpu_that_answers_nothing_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")
    gpu = torch.device("cuda:0")

    def synchronize(device: torch.device) -> None:
        raise error

    monkeypatch.setattr(devices.torch.cuda, "synchronize", synchronize)
    with pytest.raises(DeviceLostError) as caught, device_errors(gpu):
        raise error
    assert "'cuda:0' is lost" in str(caught.value) and "illegal memory access" in str(caught.value)
    assert "start it anew" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(devices.torch.cuda, "synchronize", lambda device: None)
    with pytest.raises(RuntimeError) as other, device_errors(gpu):  # an error that leaves the GPU as it was
        raise error
    assert other.value is error


# -- less of it -------------------------------------------------------------------------------------------------------


def test_lean_work_lasts_a_while_and_is_given_up_again() -> None:
    now, released, full = [0.0], [], [True]
    memory = Shortage(lambda: released.append(now[0]), lambda: now[0])

    def job(lean: bool) -> str:
        if full[0] and not lean:
            raise torch.OutOfMemoryError("no")
        return "lean" if lean else "full"

    assert (memory.work(job), memory.now, released) == ("lean", True, [0.0])
    full[0] = False
    now[0] = shortage._LEAN - 0.1
    assert (memory.work(job), memory.now, released) == ("lean", True, [0.0])
    now[0] = shortage._LEAN
    assert (memory.work(job), memory.now, released) == ("full", False, [0.0])


def test_an_error_of_another_kind_is_not_tried_again() -> None:
    asked: list[bool] = []

    def job(lean: bool) -> None:
        asked.append(lean)
        raise RuntimeError("shapes differ")

    memory = Shortage(lambda: None)
    with pytest.raises(RuntimeError, match="shapes differ"):
        memory.work(job)
    assert asked == [False] and not memory.now


def test_the_failed_attempt_is_freed_before_the_next() -> None:
    """What an exception's traceback holds on to would take the memory that the second attempt needs."""
    freed: list[bool] = []

    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    def job(lean: bool) -> None:
        if lean:
            freed.append(Big.alive == 0)
            return
        big = Big()
        raise torch.OutOfMemoryError(f"no room beside {type(big).__name__}")

    Shortage(lambda: freed.append(Big.alive == 0)).work(job)
    assert freed == [True, True]


def test_frames_go_on_at_half_size_one_by_one(engine: Engine, video: ToyVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = images_of(video, "left", "right")
    before = engine.step(cameras)
    assert not engine.shortage
    asked = limit(engine, monkeypatch, lambda shape: shape[0] == 1 and shape[2] <= tiny.SIZE[0])
    after = engine.step(cameras)
    assert [shape[0] for shape in asked] == [2, 1, 1]
    assert [side * 2 for side in asked[1][2:]] == list(asked[0][2:])
    assert "half size" in engine.shortage
    for camera, answer in after.items():
        assert (answer.height, answer.width, answer.frame_index) == (*cameras[camera].shape[:2], 1)
        assert answer.instances and all(i.rle["size"] == [answer.height, answer.width] for i in answer.instances)
        assert {i.track_id for i in answer.instances} >= {i.track_id for i in before[camera].instances}
    asked.clear()
    engine.step(cameras)
    assert [shape[0] for shape in asked] == [1, 1]  # it does not run into the wall again at once


def test_a_frame_that_even_so_does_not_fit_is_refused(
    engine: Engine, video: ToyVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = [False]
    limit(engine, monkeypatch, lambda shape: fits[0])
    for _ in range(3):
        with pytest.raises(InstformerError, match="does not suffice: end other programs") as caught:
            engine.step(images_of(video, ""))
        assert "\n" not in str(caught.value)
    fits[0] = True
    assert engine.step(images_of(video, ""))[""].frame_index == 0  # the tracks know nothing of the refused ones


def test_masks_alone_may_be_too_many(engine: Engine, video: ToyVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.step(images_of(video, ""))[""]
    engine.reset()

    def limited(logits: Any, rows: Any, height: int, width: int, lean: bool) -> KeptMasks:
        if not lean:
            raise torch.OutOfMemoryError("no")
        return KeptMasks(logits, rows, height, width, lean)

    monkeypatch.setattr("instformer_ros.engine.KeptMasks", limited)
    answer = engine.step(images_of(video, ""))[""]
    assert [i.rle for i in answer.instances] == [i.rle for i in expected.instances] and answer.instances
    assert engine.shortage


@pytest.mark.parametrize(("fault", "said"), [("out of memory", "does not suffice: end"), ("launch failure", "is lost")])
def test_what_masks_fail_by_later_is_said_in_one_line(
    engine: Engine, video: ToyVideo, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(f"CUDA error: {fault}\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(devices, "is_lost", lambda device: True)
    pending = engine.begin(images_of(video, ""))[""]
    monkeypatch.setattr(KeptMasks, "encode", fail)
    with pytest.raises(InstformerError, match=said) as caught:
        pending.finish()
    assert "\n" not in str(caught.value)


def test_warming_up_and_words_know_shortage_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = limit(engine, monkeypatch, lambda shape: shape[2] <= tiny.SIZE[0])
    engine.warm_up()
    assert len(asked) == 2 and engine.shortage

    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(engine._words, "_texts", fail)
    with pytest.raises(InstformerError, match="memory of device"):
        engine.set_vocabulary(["red mug"])
    assert engine.vocabulary.names == ("mug",)


def test_given_masks_are_kept_apart_when_memory_is_short(
    engine: Engine, video: ToyVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, masks = video.frame(0)[:2]
    given = {"a": masks[masks.any((1, 2))][:1], "b": masks[masks.any((1, 2))][:2]}
    limit(engine, monkeypatch, lambda shape: shape[0] == 1)
    answers = engine.step_with_masks({"a": image, "b": image}, given)
    assert [len(answers[camera].instances) for camera in "ab"] == [len(given[camera]) for camera in "ab"]


def test_graphs_are_given_back(engine: Engine) -> None:
    captured = Captured(engine._network._run_proposals, stream=None)  # type: ignore[arg-type]
    captured._graphs[(torch.Size([1]),)] = ("graph", [], ())  # type: ignore[assignment]
    engine._network._propose = captured
    engine._network.release()
    assert not captured._graphs


def test_a_lost_device_is_told_of_by_every_way_in(
    engine: Engine, video: ToyVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(devices, "is_lost", lambda device: True)
    monkeypatch.setattr(engine._network, "_propose", lost)
    monkeypatch.setattr(engine._words, "_texts", lost)
    monkeypatch.setattr(engine, "_free", lost)
    for way in (lambda: engine.step(images_of(video, "")), engine.warm_up, engine.close):
        with pytest.raises(DeviceLostError, match="unspecified launch failure"):
            way()
    with pytest.raises(DeviceLostError):
        engine.encode_vocabulary(["red mug"])
