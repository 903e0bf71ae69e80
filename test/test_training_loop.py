"""The loop of every training: it resumes bit for bit, and says how it goes."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_rig import ALONE, rows

from instformer_ros.structures import InstformerError
from instformer_ros.training import run
from instformer_ros.training.config import read_config
from instformer_ros.training.journal import check_tensorboard
from instformer_ros.training.loop import Losses, Schedule, Session, Stage, parameter_groups, run_stage

# -- the loop ---------------------------------------------------------------------------------------------------------

SCHEDULE = Schedule(steps=24, learning_rate=0.05, warmup=4)


def numbers(step: int) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(step))


class Small(Stage):
    """Has what a resume may get wrong: random numbers, batch statistics, weights with and without decay."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 1))
        self.seen: list[int] = []

    def forward(self, batch: Tensor, step: int, objects: float) -> Losses:
        self.seen.append(step)
        return {"loss": F.mse_loss(self.net(batch)[:, 0], batch.sum(1)), "one": torch.ones(())}


def learn(
    folder: Path,
    stop_after: int | None = None,
    small: Small | None = None,
    **session: Any,
) -> Small:
    small = small or Small()
    how = Session(folder, ALONE, **{"workers": 0, "log_every": 10, **session})
    run_stage("small", small, lambda: numbers, SCHEDULE, how, stop_after=stop_after)
    return small


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole")
    learn(tmp_path / "parts", stop_after=7)
    learn(tmp_path / "parts", stop_after=15, workers=1)  # made ahead in another process: the same data
    last = learn(tmp_path / "parts")
    assert last.seen == list(range(15, 24))
    for key, value in whole.state_dict().items():
        assert torch.equal(last.state_dict()[key], value), key
    saved = [torch.load(tmp_path / name / "small.pt", weights_only=True) for name in ("whole", "parts")]
    assert saved[0]["step"] == saved[1]["step"] == 24
    for index, state in saved[0]["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(saved[1]["optimizer"]["state"][index][key], value)
    losses = [row["loss"] for row in rows(tmp_path / "whole" / "small.jsonl")]
    assert losses[-1] < losses[0]


def test_logged_means_are_means_after_a_resume_too(tmp_path: Path) -> None:
    learn(tmp_path, stop_after=7)
    learn(tmp_path, stop_after=15)
    learn(tmp_path)
    logged = rows(tmp_path / "small.jsonl")
    assert [row["step"] for row in logged] == [7, 10, 15, 20, 24]
    assert [row["one"] for row in logged] == [1.0] * 5


def test_steps_that_were_lost_are_logged_once(tmp_path: Path) -> None:
    """Killed at step 22, saved last at step 12: the lines of the steps between come again."""

    class Killed(Exception):
        pass

    class Doomed(Small):
        def forward(self, batch: Tensor, step: int, objects: float) -> Losses:
            if step == 22:
                raise Killed
            return super().forward(batch, step, objects)

    with pytest.raises(Killed):
        learn(tmp_path, small=Doomed(), log_every=5, save_every=12)
    with (tmp_path / "small.jsonl").open("a") as log:
        log.write('{"step": 2')  # cut short by the interruption
    resumed = learn(tmp_path, log_every=5, save_every=12)
    assert resumed.seen == list(range(12, 24))
    assert [row["step"] for row in rows(tmp_path / "small.jsonl")] == [5, 10, 15, 20, 24]
    whole = learn(tmp_path / "whole")
    assert torch.equal(resumed.net[0].weight, whole.net[0].weight)


def test_a_stage_that_has_ended_is_loaded_and_left_alone(tmp_path: Path) -> None:
    first = learn(tmp_path)
    again = learn(tmp_path)
    assert again.seen == []
    assert torch.equal(again.net[0].weight, first.net[0].weight)


@pytest.mark.parametrize("damage", ["other", "empty", "garbage", "cut"])
def test_progress_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    learn(tmp_path, stop_after=3)
    file = tmp_path / "small.pt"
    data = file.read_bytes()
    file.write_bytes({"other": data, "empty": b"", "garbage": b"hello", "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(InstformerError) as caught:
        learn(tmp_path, small=Small(7 if damage == "other" else 6))
    assert str(caught.value).startswith(f"cannot resume from {file}: ")
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    class Diverging(Small):
        def forward(self, batch: Tensor, step: int, objects: float) -> Losses:
            losses = super().forward(batch, step, objects)
            return losses if step < 2 else {"loss": losses["loss"] * float("nan")}

    with pytest.raises(InstformerError, match="small: the loss is nan at step 2; lower the learning rate"):
        learn(tmp_path, small=Diverging())


def test_the_source_is_made_only_if_there_is_something_to_learn(tmp_path: Path) -> None:
    learn(tmp_path)
    run_stage("small", Small(), lambda: pytest.fail("made"), SCHEDULE, Session(tmp_path, ALONE))


def test_scores_are_logged_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    small = Small()

    def evaluate() -> dict[str, float]:
        return {"done": len(small.seen)}

    for stop in (13, None):
        session = Session(tmp_path, ALONE, workers=0, evaluate_every=10)
        run_stage("small", small, lambda: numbers, SCHEDULE, session, evaluate=evaluate, stop_after=stop)
    assert [row["step"] for row in rows(tmp_path / "small.evaluation.jsonl")] == [10, 13, 20, 24]
    assert [row["done"] for row in rows(tmp_path / "small.evaluation.jsonl")] == [10, 13, 20, 24]


def test_frozen_weights_are_not_saved(tmp_path: Path) -> None:
    small = Small()
    small.net[0].requires_grad_(False)
    learn(tmp_path, small=small)
    saved = torch.load(tmp_path / "small.pt", weights_only=True)["module"]
    assert set(small.state_dict()) - set(saved) == {"net.0.weight", "net.0.bias"}


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    learn(tmp_path, stop_after=12, tensorboard=True)
    learn(tmp_path, tensorboard=True)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "small"))
    board.Reload()
    shown, logged = board.Scalars("small/loss"), rows(tmp_path / "small.jsonl")
    assert [event.step for event in shown] == [row["step"] for row in logged]
    assert [event.value for event in shown] == pytest.approx([row["loss"] for row in logged])


def test_a_missing_tensorboard_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstformerError, match="pip install tensorboard"):
        check_tensorboard()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rollout_step = 3", "'rollout_step' is unknown; use scenes, "),
        ("rollout_steps = 3.5", "'rollout_steps' is 3.5; use a whole number"),
        ("rollout_steps = true", "'rollout_steps' is True; use a whole number"),
        ("rollout_steps = 0", "rollout_steps is 0; use 1 or more"),
        ("rollout_steps = ", "give a TOML file"),
    ],
)
def test_a_bad_config_is_explained(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(InstformerError) as caught:
        read_config(file, run.Plan())
    assert problem in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text("rollout_steps = 7")
    assert read_config(file, run.SMOKE) == replace(run.SMOKE, rollout_steps=7)


def test_schedules() -> None:
    cosine = Schedule(steps=110, learning_rate=1, warmup=10)
    assert [cosine.factor(s) for s in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert cosine.factor(60) == pytest.approx(0.5)
    assert 0 < cosine.factor(109) < 0.001
    step = Schedule(steps=60, learning_rate=1, warmup=0, decay="step")
    assert [step.factor(s) for s in (0, 49, 50, 59)] == [1, 1, 0.1, 0.1]


def test_vectors_do_not_decay_and_prefixes_scale() -> None:
    small = Small()
    small.net[3].requires_grad_(False)
    groups = parameter_groups(small, 0.05, {"net.0": 0.1})
    found = {id(p): (g["weight_decay"], g["factor"]) for g in groups for p in g["params"]}
    names = {name: found.get(id(p)) for name, p in small.named_parameters()}
    assert names == {
        "net.0.weight": (0.05, 0.1), "net.0.bias": (0.0, 0.1), "net.1.weight": (0.0, 1.0), "net.1.bias": (0.0, 1.0),
        "net.3.weight": None, "net.3.bias": None,
    }  # fmt: skip
