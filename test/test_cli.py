"""The command line: what it writes, and that every bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from oracle_engine import install

from instformer_ros import cli, masks
from instformer_ros.model.variants import Variant
from instformer_ros.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return install(monkeypatch)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs a command that must fail; returns its one line."""
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as exit:  # argparse's own way out
        code = int(exit.code or 0)
    assert code == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "|" not in line and line.strip()]  # progress bars aside
    assert out == "" and len(lines) == 1 and lines[0].startswith("instformer: error: "), err
    return lines[0]


def pictures(folder: Path, count: int = 3, width: int = 33, height: int = 21) -> Path:
    folder.mkdir()
    for n in range(count):
        cv2.imwrite(str(folder / f"{n}.png"), np.full((height, width, 3), 40 * n, dtype=np.uint8))
    return folder


# ---- segment ------------------------------------------------------------------------------------------------------


def test_segment_writes_three_files(tmp_path: Path, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = pictures(tmp_path / "in"), tmp_path / "deep" / "out"
    code = cli.main(
        ["segment", str(source), "--vocabulary", "cat, zebra", "--output", str(output), "--precision", "fp32"]
    )
    assert code == 0 and engine.loaded_with == {"precision": "fp32"}
    assert sorted(p.name for p in output.iterdir()) == ["overlay.mp4", "summary.json", "tracks.json"]

    (entry,) = json.loads((output / "tracks.json").read_text())
    assert (entry["video_id"], entry["category_id"], entry["category_name"], entry["track_id"]) == (1, 1, "cat", 5)
    assert entry["score"] == pytest.approx(0.75) and len(entry["segmentations"]) == 3
    decoded = masks.decode(entry["segmentations"][1])
    assert decoded.shape == (21, 33) and decoded[2:8, 1:7].all() and decoded.sum() == 36

    summary = json.loads((output / "summary.json").read_text())
    assert (summary["frames"], summary["width"], summary["height"]) == (3, 33, 21)
    assert summary["vocabulary"] == ["cat", "zebra"] and summary["unknown_words"] == ["zebra"]
    assert summary["precision"] == "fp32" and 10**7 < summary["peak_memory_bytes"] < 10**11
    assert set(summary["stages"]) >= {"read", "proposals", "instclip", "draw", "write"}
    assert summary["stages"]["instclip"]["mean_ms"] == pytest.approx(2.0) and summary["fps"] > 0
    assert summary["tracks"][0]["first_frame"] == 0 and summary["tracks"][0]["last_frame"] == 2

    out = capsys.readouterr().out
    assert "cat" in out and "3 frames" in out and "peak memory: " in out and "never trained on: zebra" in out
    assert engine.Engine.closed == 1 and engine.last.settings.class_scores


def test_overlay_plays(tmp_path: Path, engine: Any) -> None:
    source, output = pictures(tmp_path / "in", count=5, width=161, height=121), tmp_path / "out"
    cli.main(["segment", str(source), "--vocabulary", "cat", "--output", str(output), "--max-frames", "4"])
    video = cv2.VideoCapture(str(output / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(30)
    frames = []
    while True:
        ok, frame = video.read()
        if not ok:
            break
        frames.append(frame)
    assert len(frames) == 4 and frames[0].shape == (122, 162, 3)  # odd sides are made even
    assert frames[3].mean() > frames[0].mean() + 60  # the pictures grow lighter
    assert len(json.loads((output / "tracks.json").read_text())[0]["segmentations"]) == 4


def test_segment_a_bag_into_a_bag(tmp_path: Path, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'instformer_ros[bags]'")
    import bag_files

    bag = bag_files.write(
        tmp_path / "run",
        {"/eye": [bag_files.raw(n, p) for n, p in enumerate(bag_files.pictures())], "/chat": [bag_files.text(0)]},
    )
    out = tmp_path / "out" / "found.mcap"
    common = ["segment", bag, "--vocabulary", "cat", "--output", tmp_path / "out", "--output-bag", out, "--topic"]
    assert cli.main([str(a) for a in [*common, "/eye"]]) == 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["found.mcap", "overlay.mp4", "summary.json", "tracks.json"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["source_fps"] == pytest.approx(20)
    capsys.readouterr()
    assert "exists already" in error_of(capsys, *common, "/eye")
    assert "it holds /chat (std_msgs/msg/String), /eye" in error_of(capsys, *common, "/nose")


def test_segment_without_words_is_class_agnostic(tmp_path: Path, engine: Any) -> None:
    cli.main(["segment", str(pictures(tmp_path / "in")), "--vocabulary", "", "--output", str(tmp_path / "out")])
    (entry,) = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert entry["category_name"] == "object" and entry["score"] == pytest.approx(0.75)


def test_segment_bad_inputs(tmp_path: Path, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = pictures(tmp_path / "in"), tmp_path / "out"
    good = ["segment", source, "--vocabulary", "cat", "--output", output]
    (tmp_path / "file").write_text("x")
    (tmp_path / "not.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    mixed = pictures(tmp_path / "mixed", 2)
    cv2.imwrite(str(mixed / "9.png"), np.zeros((5, 5, 3), dtype=np.uint8))
    torn = pictures(tmp_path / "torn", 2)
    (torn / "9.png").write_bytes(b"\x89PNG\r\n")
    for arguments, words in (
        (["segment", tmp_path / "nothing", *good[2:]], "nothing"),
        (["segment", tmp_path / "not.mp4", *good[2:]], "not.mp4"),
        (["segment", tmp_path / "empty", *good[2:]], "empty"),
        (["segment", mixed, *good[2:]], "5"),
        (["segment", torn, *good[2:]], "9.png"),
        (["segment", "toyvis:x", *good[2:]], "toyvis:"),
        ([*good[:-1], tmp_path / "file"], "file"),
        ([*good, "--model", "missing.safetensors"], "missing.safetensors"),
        ([*good, "--device", "cuda:9"], "cuda:9"),
        ([*good, "--max-frames", "0"], "'0': use a whole number from 1 up"),
        ([*good, "--max-frames", "many"], "'many': use a whole number from 1 up"),
        ([*good, "--score-threshold", "7"], "score_threshold is 7.0"),
        ([*good[:2], "--vocabulary", "x" * 10_000, *good[4:]], "200 characters"),
        (good[:4], "--output"),
        ([*good[:2], *good[4:]], "--vocabulary"),
        (["dance"], "dance"),
        ([], "required"),
    ):
        assert words in error_of(capsys, *arguments)
    assert not list(output.glob("*.mp4"))  # nothing half-written is left


# ---- evaluate -----------------------------------------------------------------------------------------------------


def test_evaluate_writes_the_numbers(tmp_path: Path, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackeval", reason="trackeval is not installed")
    path = tmp_path / "new" / "scores.json"
    what = ["--split", "novel", "--seed", "4", "--videos", "1", "--life-cycle", "slots"]
    what += ["--classifier", "crops", "--association", "query", "--rollout", "none"]
    code = cli.main(["evaluate", "toyvis", *what, "--json", str(path)])
    assert code == 0
    report = json.loads(path.read_text())
    assert {"AP", "AP50", "AR10", "IDF1", "HOTA"} <= set(report)
    assert (report["split"], report["seeds"], report["videos"], report["model"]) == ("novel", [4], 1, "toyvis")
    assert all(report[key] is None or 0 <= report[key] <= 1 for key in ("AP", "AP50", "AR10", "IDF1", "HOTA"))
    assert "novel" in capsys.readouterr().out
    variant = Variant(classifier="crops", association="query", rollout="none")
    assert engine.loaded_with == {"untrained": False, "variant": variant, "precision": "auto"}
    assert report["variant"] == {"classifier": "crops", "association": "query", "rollout": "none"}
    video, true_masks = engine.used[0], engine.used[1]
    assert (video.life_cycle, true_masks.life_cycle) == ("slots", "managed")
    assert all(not s.negatives and s.score_threshold == 0 and s.class_scores for s in (video, true_masks))
    assert engine.last.settings == Settings() and engine.Engine.closed == 1


def test_evaluate_bad_inputs(tmp_path: Path, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for arguments, words in (
        (["--split", "rare"], "rare"),
        (["--seed", "-3"], "-3"),
        (["--seed", "x"], "'x': use a whole number from 0 up"),
        (["--videos", "0"], "'0': use a whole number from 1 up"),
        (["--videos", "10001"], "10001 videos"),
        (["--json", tmp_path], "is a folder"),
        (["--json", tmp_path / "file" / "a.json"], "cannot be written"),
        (["--model", "missing.safetensors"], "missing.safetensors"),
        (["--device", "tpu"], "tpu"),
    ):
        assert words in error_of(capsys, "evaluate", "toyvis", *arguments)
    assert "BENCHMARK" in error_of(capsys, "evaluate")
    assert "cityscapes" in error_of(capsys, "evaluate", "cityscapes")


# ---- train, help, interruption ------------------------------------------------------------------------------------


def test_train_hands_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("instformer_ros.training.command")
    seen: list[Any] = []
    module.train_toyvis = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "instformer_ros.training.command", module)
    assert cli.main(["train", "toyvis", "--output", "x", "--seed", "3", "--accumulate", "2", "--smoke"]) == 0
    (options,) = seen
    assert (options.output, options.seed, options.accumulate, options.smoke) == (Path("x"), 3, 2, True)
    assert (options.device, options.evaluate_every, options.tensorboard, options.config) == ("auto", 0, False, None)


def test_train_explains_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.toml").write_text("stepz = 3")
    for arguments, words in (
        ([], "WHAT"),
        (["cityscapes"], "cityscapes"),
        (["toyvis", "--seed", "-1"], "whole number from 0 up"),
        (["toyvis", "--seed", "one"], "'one'"),
        (["toyvis", "--accumulate", "0"], "whole number from 1 up"),
        (["toyvis", "--device", "tpu"], "tpu"),
        (["toyvis", "--config", str(tmp_path / "plan.toml")], "'stepz' is unknown"),
        (["toyvis", "--config", str(tmp_path / "none.toml")], "none.toml"),
        (["toyvis", "--smoke", "--accumulate", "3", "--output", str(tmp_path / "out")], "multiple of 3"),
    ):
        assert words in error_of(capsys, "train", *arguments)
    assert not list(tmp_path.glob("out/*.pt"))


def test_interruption_leaves_no_traceback(
    tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Any, images: Any) -> Any:
        if self.count == 2:
            raise KeyboardInterrupt
        return {camera: self.see(image) for camera, image in images.items()}

    monkeypatch.setattr(engine.Engine, "step", interrupted)
    output = tmp_path / "out"
    code = cli.main(["segment", str(pictures(tmp_path / "in")), "--vocabulary", "cat", "--output", str(output)])
    assert code == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(output.iterdir()) == [] and engine.Engine.closed == 1


def test_our_own_faults_are_not_hidden(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.Engine, "step", lambda self, images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["segment", str(pictures(tmp_path / "in")), "--vocabulary", "a", "--output", str(tmp_path / "out")])


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from instformer_ros import cli\n"
        "for arguments in ([], ['segment'], ['evaluate', 'toyvis'], ['train', 'toyvis']):\n"
        "    try: cli.main([*arguments, '--help'])\n"
        "    except SystemExit as exit: assert exit.code == 0\n"
        "print(sorted({'numpy', 'torch', 'cv2', 'scipy', 'tqdm'} & set(sys.modules)), file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.strip() == "[]", done.stderr
    assert "segment" in done.stdout and "--vocabulary" in done.stdout and "--untrained" in done.stdout
    assert time.perf_counter() - start < 20  # generous: machines may be busy


def test_a_reader_that_leaves_early_leaves_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does, only sooner
    command = [sys.executable, "-m", "instformer_ros.cli", "weights", "show", "toyvis"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (cli.READER_LEFT, "")


def test_what_a_command_does_not_take_is_named_with_the_help_that_lists_what_it_does(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["segment", "a.mp4", "--vocabulary", "cat", "--output", "out", "--fps", "3"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "instformer: error: instformer segment takes no --fps 3 (try 'instformer segment --help')\n"


def test_a_file_that_may_not_be_read_is_one_line(engine: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def refused(self: Any, images: Any) -> Any:
        raise PermissionError(13, "Permission denied", "locked/a.png")

    monkeypatch.setattr(engine.Engine, "step", refused)
    arguments = ("segment", pictures(tmp_path / "in"), "--vocabulary", "a", "--output", tmp_path / "out")
    assert "'locked/a.png': Permission denied; check the path" in error_of(capsys, *arguments)


def test_memory_that_does_not_suffice_is_one_line(engine: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def refused(self: Any, images: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(engine.Engine, "step", refused)
    arguments = ("segment", pictures(tmp_path / "in"), "--vocabulary", "a", "--output", tmp_path / "out")
    assert "memory does not suffice" in error_of(capsys, *arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which plays a full disk")
def test_a_full_disk_is_one_line() -> None:
    command = [sys.executable, "-m", "instformer_ros.cli", "weights", "show", "toyvis"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == cli.BAD_INPUT
    assert done.stderr == "instformer: error: the disk is full; make room and start again\n"
