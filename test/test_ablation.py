"""The ablations: followed as the engine follows, cells that resume, paired differences, trackers beside ours."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trackeval", reason="trackeval is not installed")

from instformer_ros import cli
from instformer_ros.ablation import running
from instformer_ros.ablation.following import associate, box_iou, follow, is_installed, score
from instformer_ros.ablation.learning import Budget
from instformer_ros.ablation.report import fill, format_differences, format_rows, mean_and_spread, paired
from instformer_ros.ablation.running import cell_file, claim, run_cells, systems_of
from instformer_ros.ablation.seeing import SeenFrame, SeenVideo, see, tokens_of
from instformer_ros.ablation.systems import TABLES, Adapters, System
from instformer_ros.data.toyvis import ALL_NAMES
from instformer_ros.engine import Engine
from instformer_ros.evaluation.toyvis import score_runs
from instformer_ros.evaluation.toyvis_run import run_videos, settings, video_seeds
from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.model.vocabulary import TextEncoder
from instformer_ros.paths import model_path
from instformer_ros.structures import InstformerError
from instformer_ros.weights import checkpoint

CPU = torch.device("cpu")
SMALL = Budget(videos=1, named_every=12, proposal_steps=1, adapter_steps=1, rollout_videos=1, rollout_steps=1, batch=1)


@pytest.fixture(scope="module")
def model() -> InstFormer:
    return checkpoint.load(model_path("toyvis"))


@pytest.fixture(scope="module")
def seen(model: InstFormer) -> SeenVideo:
    return see(model.proposals, model.config, video_seeds(7, 1)[0], settings("managed")[0], CPU)


@pytest.fixture(scope="module")
def scale(model: InstFormer) -> torch.Tensor:
    return model.instclip.clip.logit_scale


@pytest.fixture(scope="module")
def texts(model: InstFormer) -> torch.Tensor:
    return TextEncoder(model.instclip, model.config.clip)(ALL_NAMES).clone()


def test_follows_and_names_as_the_engine_does(model: InstFormer, seen: SeenVideo, texts: Any, scale: Any) -> None:
    how = settings("managed")[0]
    with torch.inference_mode():
        by = associate("rollout", model.rollout, how)
        run = follow(seen, 1, tokens_of(seen, model.instclip), by, texts, scale)
    wanted = run_videos(Engine(checkpoint.load(model_path("toyvis")), CPU), 7, 1, life_cycle="managed")
    theirs = score_runs(wanted, ["all"])["all"]
    for key, value in score([run]).items():
        if key in theirs:
            assert value == pytest.approx(theirs[key], abs=1e-6), key
    assert (
        len(run.tracks) == len(wanted[0].tracks) > 2
    )  # the numbers of theirs have gaps: the run with true masks counts on
    assert run.truth == wanted[0].truth
    for mine, other in zip(run.tracks, wanted[0].tracks, strict=True):
        assert mine.masks == other.masks and (mine.first, mine.last) == (other.first, other.last)
        assert np.abs(mine.class_scores - other.class_scores).max() < 1e-4
    assert score([run])["IDF1"] > 0.3  # else the test shows nothing


def test_naming_counts_right_names_on_true_objects(seen: SeenVideo, texts: Any, scale: Any) -> None:
    names = list(seen.video.names)

    def named(give: dict[str, str]) -> float:
        """The truth as proposals, each with the text of a name as its token."""
        frames, tokens = [], []
        for rles in seen.truth:
            there = [n for n, rle in enumerate(rles) if rle is not None]
            count = len(there)
            frame = SeenFrame(
                torch.tensor(there), torch.eye(len(names))[there], np.ones(count, np.float32),
                torch.zeros(count, 1, 1), [rles[n] for n in there], np.zeros((count, 4), np.float32),
            )  # fmt: skip
            frames.append(frame)
            index = [ALL_NAMES.index(give.get(names[n], names[n])) for n in there]
            tokens.append(texts[index] if count else texts[:0])
        truth = replace(seen, frames=frames)
        by = associate("rollout", RolloutTracker(RolloutConfig("none", "query"), len(names)), settings("managed")[0])
        numbers = score([follow(truth, 1, tokens, by, texts, scale)])
        assert numbers["IDF1"] == pytest.approx(1) and numbers["AR100_agnostic"] == pytest.approx(1)
        return numbers["naming"]

    assert named({}) == 1.0
    wrong = names[0]
    other = next(name for name in ALL_NAMES if name not in names)
    visible = [[names[n] for n, rle in enumerate(rles) if rle is not None] for rles in seen.truth]
    share = sum(name == wrong for frame in visible for name in frame) / sum(map(len, visible))
    assert named({wrong: other}) == pytest.approx(1 - share)


def moving_boxes(frames: int) -> list[SeenFrame]:
    """Two boxes of 30 pixels that move apart by 4 pixels a frame."""
    out = []
    for t in range(frames):
        x = np.array([[100 - 4 * t, 50], [140 + 4 * t, 50]], np.float32)
        rows = [1, 0] if t % 2 else [0, 1]  # the order of proposals says nothing
        boxes = np.concatenate([x, x + 30], 1)[rows]
        count = len(rows)
        objectness = np.full(count, 0.9, np.float32)
        nothing = torch.zeros(count, 1, 1)
        out.append(SeenFrame(torch.tensor(rows), nothing[:, 0], objectness, nothing, [None] * count, boxes))  # type: ignore[list-item]
    return out


@pytest.mark.parametrize("follower", ["box-iou", "sort", "bytetrack"])
def test_trackers_of_boxes_keep_identities(follower: Any) -> None:
    if follower != "box-iou":
        pytest.importorskip("trackers", reason="the library trackers is not installed")
    by = associate(follower, RolloutTracker(RolloutConfig("none"), 4), settings("managed")[0])
    owners: dict[int, set[int]] = {}
    total = 0
    for frame in moving_boxes(12):
        for track, row in by(frame, torch.zeros(len(frame.rows), 4)):
            owners.setdefault(track, set()).add(int(frame.rows[row]))
            total += 1
            assert track > 0
    assert total >= 22  # confirmed at once
    assert sorted(owners.values(), key=min) == [{0}, {1}]


def test_without_the_library_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert is_installed("box-iou") and not is_installed("sort") and not is_installed("bytetrack")
    with pytest.raises(InstformerError, match="sort needs the library trackers; run 'pip install trackers'"):
        associate("sort", RolloutTracker(RolloutConfig("none"), 4), settings("managed")[0])


def test_box_iou() -> None:
    a = np.array([[0.0, 0, 4, 4], [0, 0, 0, 0]])
    b = np.array([[2.0, 0, 6, 4], [10, 10, 12, 12], [0, 0, 4, 4]])
    assert np.allclose(box_iou(a, b), [[1 / 3, 0, 1], [0, 0, 0]])


def test_candidates_are_what_the_tracker_may_take(model: InstFormer, seen: SeenVideo) -> None:
    least = settings("managed")[0].keep_threshold
    assert all((frame.objectness >= least).all() for frame in seen.frames)
    assert any(len(frame.rows) > 1 for frame in seen.frames)
    some = tokens_of(seen, model.instclip, every=12)
    assert [t for t, token in enumerate(some) if token is not None] == [0, 12, 24]
    frame = seen.frames[12]
    with torch.inference_mode():
        whole = model(seen.images[12:13].float())
        assert (whole.tokens[0, frame.rows] - some[12]).abs().max() < 1e-5  # type: ignore[operator]
    assert 0.3 < seen.recall <= 1


def test_cells_resume_and_hold_the_numbers(model: InstFormer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each kind; the second call runs only the cell that went missing, and gives the same again."""
    monkeypatch.setattr(running, "_TIMED_FRAMES", 1)
    rows = (0, 1, 3, 4)  # query; with token; with trained RNN; Linear
    table = replace(TABLES[7], rows=tuple(TABLES[7].rows[i] for i in rows), compared=((0, 1),))
    adapters = replace(TABLES[8], rows=TABLES[8].rows[3:], compared=())
    done: list[str] = []
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run_cells(model, [table, adapters], [1], SMALL, tmp_path, done.append)
    assert len(done) == 5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # shared, so untouched
    file = cell_file(tmp_path, table.rows[2].system, 1)
    numbers = json.loads(file.read_text())
    assert {"AP", "AP_base", "AR100_agnostic", "IDF1", "HOTA", "naming", "frame_AR"} <= set(numbers)
    assert all(value is None or 0 <= value <= 1 for value in numbers.values())
    file.unlink()
    done.clear()
    run_cells(model, [table, adapters], [1], SMALL, tmp_path, done.append)
    assert len(done) == 1 and json.loads(file.read_text()) == numbers


def test_a_folder_holds_one_budget(tmp_path: Path) -> None:
    claim(tmp_path, SMALL, "toyvis")
    claim(tmp_path, SMALL, "toyvis")
    with pytest.raises(InstformerError, match="another budget or model"):
        claim(tmp_path, replace(SMALL, batch=2), "toyvis")


def test_the_tables_are_the_paper_s() -> None:
    assert [len(TABLES[n].rows) for n in (4, 5, 6, 7, 8)] == [5, 8, 5, 10, 4]
    for table in TABLES.values():
        assert all(0 <= i < len(table.rows) for pair in table.compared for i in pair)
    systems = systems_of(TABLES.values())
    assert len(systems) == len({system.name for system in systems}) < sum(len(t.rows) for t in TABLES.values())
    margins = [system.margin for system in systems]
    assert len([1 for a, b in itertools.pairwise(margins) if a != b]) == 4  # each margin's lie together
    plain = [row.system for n in (5, 8) for row in TABLES[n].rows]
    assert all((s.association, s.rollout, s.follower) == ("query", "none", "rollout") for s in plain)
    assert Adapters().name == "designed_register_qv" and System() == TABLES[7].rows[0].system


def test_differences_are_paired_and_their_sign_is_judged() -> None:
    table = replace(TABLES[7], rows=TABLES[7].rows[:3], compared=((0, 1), (0, 2)))
    scores = ((0.10, 0.50, 0.90), (0.12, 0.53, 0.91), (0.05, 0.60, 0.80))
    cells: Any = [
        {seed: dict.fromkeys((*table.columns, *table.judged), value) for seed, value in enumerate(row, 1)}
        for row in scores
    ]
    assert paired(cells[0], cells[1], "AP") == pytest.approx([0.02, 0.03, 0.01])
    assert mean_and_spread([0.02, 0.03, 0.01]) == pytest.approx((0.02, 0.01))
    _, _, up, down = format_differences(table, cells).splitlines()
    assert up.endswith("| +2.0 ± 1.0 | +2.0 ± 1.0 | +2.0 ± 1.0 | yes | yes |") and "| +0.4 |" in up
    assert down.endswith("| **no** | no |")  # -5, +10, -10 where the paper has +0.1
    del cells[1][3]
    assert len(paired(cells[0], cells[1], "AP")) == 2
    assert "| – |" in format_rows(table, [{}, *cells[1:]])
    assert math.isnan(mean_and_spread([0.5])[1])


def test_tables_go_between_their_markers(tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    fill(file, {4: "first", 5: "second"})
    file.write_text(file.read_text().replace("# Ablations", "My words\n\n# Ablations"))
    fill(file, {5: r"third \1"})
    text = file.read_text()
    assert text.startswith("My words") and "first" in text and "second" not in text and r"third \1" in text
    with pytest.raises(InstformerError, match="has no '<!-- table 6 -->"):
        fill(file, {6: "x"})


def test_command_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--tables", "3"], "tables '3': use some of 4, 5, 6, 7, 8"),
        (["--seeds", "0"], "seeds is 0"),
        (["--videos", "0"], "videos is 0"),
        (["--model", "missing.safetensors"], "missing.safetensors"),
    ):
        assert cli.main(["ablate", "toyvis", "--output", str(tmp_path / "x"), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["ablate", "toyvis", "--output", str(tmp_path / "y"), "--report-only", "--tables", "6"]) == 0
    assert "α = 0.8" in (tmp_path / "y" / "results.md").read_text()
    assert (tmp_path / "y" / "images" / "ablation_table6.png").stat().st_size < 100_000
