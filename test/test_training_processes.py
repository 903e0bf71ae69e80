"""Training by several processes, in parts, and through interruptions: always the same weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import program_training as program
import pytest
import torch
from torch import Tensor

from instformer_ros.structures import InstformerError
from instformer_ros.training.loop import Session
from instformer_ros.training.team import Team, join

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
ALONE = Team(torch.device("cpu"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """Weights of one process that takes every batch whole, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return program.train(folder, ALONE), folder


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name].is_floating_point())


def logged(folder: Path, stage: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_something_is_learnt(whole: tuple[dict[str, Tensor], Path]) -> None:
    """Else the comparisons below would be of nothing."""
    untrained = {name: value for name, value in program.tiny.model().double().state_dict().items() if name in whole[0]}
    moved = [name for name in untrained if not torch.equal(untrained[name], whole[0][name])]
    for part in ("proposals.backbone", "proposals.mask_decoder", "instclip.lora", "instclip.instance", "rollout"):
        assert any(name.startswith(part) for name in moved), part
    assert difference(untrained, whole[0]) > 1e-4


def test_two_processes_are_one_with_the_double_batch(whole: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "program_training.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": PATHS}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert difference(torch.load(tmp_path / "trained.pt", weights_only=True), whole[0]) < 1e-5
    for stage in ("instances", "rollout"):
        for one, two in zip(logged(whole[1], stage), logged(tmp_path, stage), strict=True):
            assert two == pytest.approx(one, abs=2e-4)


def test_a_step_in_parts_is_the_same_step(whole: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    assert difference(program.train(tmp_path, ALONE, accumulate=4), whole[0]) < 1e-5


def test_killed_at_any_step_the_training_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PATHS)  # or the server would not find what it is to load once for all
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["program_training"])

    def run(folder: Path, step: int) -> int | None:
        process = processes.Process(target=program.train_until_killed, args=(folder, step))
        process.start()
        process.join(240)
        return process.exitcode

    assert run(tmp_path / "whole", -1) == 0
    for step in range(program.STEPS):
        assert run(tmp_path / "killed", step) == -signal.SIGKILL
    assert run(tmp_path / "killed", -1) == 0
    one, other = (torch.load(tmp_path / name / "trained.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    session = Session(tmp_path, Team(torch.device("cpu"), size=2), accumulate=3)
    assert session.share(12) == 2
    with pytest.raises(InstformerError, match=r"a batch of 8 cannot be shared by 2 processes .*; use a multiple of 6"):
        session.share(8)


def test_a_team_needs_a_gpu_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InstformerError, match=r"'cuda:1' for 2 processes: each needs a GPU of its own; use cuda"):
        join("cuda:1").__enter__()
