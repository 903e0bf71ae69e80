"""The paper's two stages on annotated data, with a tiny model and a few squares in the benchmarks' own formats."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import benchmark_files
import numpy as np
import pytest
import tiny
import torch

from instformer_ros import cli
from instformer_ros import masks as mask_tools
from instformer_ros.data.datasets import read_dataset
from instformer_ros.data.videos import VideoDataset
from instformer_ros.structures import InstformerError, TrackedFrame, TrackedInstance, TrackState, Vocabulary
from instformer_ros.training import tokens, validation
from instformer_ros.training.annotated import Work, train_annotated
from instformer_ros.training.config import find_config, read_config
from instformer_ros.training.loop import Session
from instformer_ros.training.mixture import FrameBatches, mix
from instformer_ros.training.recipe import InstanceRecipe, Recipe, RolloutRecipe
from instformer_ros.training.team import Team
from instformer_ros.weights import checkpoint

RECIPE = Recipe(
    InstanceRecipe(steps=2, batch=2, points=64, short_side=(40, 48), precision="fp32"),
    RolloutRecipe(steps=2, batch=2, videos=2, mask_duplicates=False),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and LV-VIS's annotations and pictures."""
    folder = tmp_path_factory.mktemp("files")
    licences = dict.fromkeys(("proposals", "clip", "instclip", "rollout"), "Apache-2.0")
    checkpoint.save(tiny.model(), folder / "model.safetensors", licences, {"origin": "a test"})
    annotations, _ = benchmark_files.youtube_vis(folder, videos=3)
    (folder / "train.json").write_text(json.dumps(annotations))
    for category in annotations["categories"]:
        del category["partition"]
    (folder / "all.json").write_text(json.dumps(annotations))
    return folder


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks of an untrained model meet no object; here any overlap is enough."""
    monkeypatch.setattr(tokens, "_LEAST_OVERLAP", 0.0)


class OracleEngine:
    """Answers with the annotations of the videos, one after the other."""

    dataset: VideoDataset

    def __init__(self, *_: object) -> None:
        self._video = -1

    def set_vocabulary(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def reset(self) -> None:
        self._video, self._frame = self._video + 1, 0

    def step(self, images: Mapping[str, object]) -> dict[str, TrackedFrame]:
        video = self.dataset.videos[self._video]
        _, masks = video.frame(self._frame)
        frame = TrackedFrame(video.height, video.width, Vocabulary(1, self._names), self._frame)
        for k, (name, mask) in enumerate(zip(video.names, masks, strict=True)):
            if mask.any():
                rle, index = mask_tools.encode(mask), self._names.index(name)
                scores = np.eye(len(self._names), dtype=np.float32)[index]
                frame.instances.append(
                    TrackedInstance(
                        k + 1, TrackState.TRACKED, 1, 0, k + 1, index, name, 1.0, 1.0, (0, 0, 1, 1), rle, scores
                    )
                )
        self._frame += 1
        return {"": frame}


def work(files: Path, stage: str = "both", dataset: str = "lv-vis") -> Work:
    name = "train.json" if dataset == "lv-vis" else "all.json"
    return Work(dataset, files / name, files, str(files / "model.safetensors"), stage)


def session(folder: Path) -> Session:
    return Session(folder, Team(torch.device("cpu")), workers=0)


def test_both_stages_train_what_they_should(files: Path, tmp_path: Path, generous: None) -> None:
    path = train_annotated(work(files, dataset="youtube-vis"), RECIPE, 0, session(tmp_path / "run"))
    header = checkpoint.read_header(path)
    assert header["licences"] == checkpoint.read_header(files / "model.safetensors")["licences"]
    assert isinstance(header["notes"], dict)
    assert header["notes"]["origin"] == "a test" and "youtube-vis" in header["notes"]["trained_on"]
    before = checkpoint.load(files / "model.safetensors").state_dict()
    after = checkpoint.load(path).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("proposals.mask_decoder") for name in moved)
    assert any(name.startswith("instclip.lora") for name in moved)
    assert any(name.startswith("rollout") for name in moved)
    assert not any(name.startswith("instclip.clip") or "running" in name for name in moved), "frozen"
    for stage in ("instances", "rollout"):
        rows = [json.loads(line) for line in (tmp_path / "run" / f"{stage}.jsonl").read_text().splitlines()]
        assert rows and all(math.isfinite(row["loss"]) for row in rows)
    with pytest.raises(InstformerError, match=r"another plan \(seed: 0, now 1\)"):
        train_annotated(work(files, dataset="youtube-vis"), RECIPE, 1, session(tmp_path / "run"))


def test_a_model_that_finds_nothing_cannot_learn_to_follow(files: Path, tmp_path: Path) -> None:
    with pytest.raises(InstformerError, match="meet no object of the videos"):
        train_annotated(work(files, "2"), RECIPE, 0, session(tmp_path))


def test_one_stage_alone_leaves_the_other_as_it_was(files: Path, tmp_path: Path, generous: None) -> None:
    path = train_annotated(work(files, "2"), RECIPE, 0, session(tmp_path))
    before, after = checkpoint.load(files / "model.safetensors").state_dict(), checkpoint.load(path).state_dict()
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"rollout"}


def test_novel_classes_are_never_trained_on(files: Path) -> None:
    dataset = read_dataset("lv-vis", files / "train.json", files)
    mixture = mix([dataset], [1])
    assert mixture.classes == ("giant panda",)
    assert "cat" in dataset.videos[0].names
    batch = FrameBatches(mixture, 3, 0, (40, 44), (124.0, 116.0, 104.0))(0)
    assert list(batch.targets.counts) == [1, 1, 1]
    assert not batch.targets.labels.any()
    assert batch.images.shape[2] % 4 == batch.images.shape[3] % 4 == 0
    again = FrameBatches(mixture, 3, 0, (40, 44), (124.0, 116.0, 104.0))(0)
    assert torch.equal(batch.images, again.images)
    with pytest.raises(InstformerError, match="no object of a training class"):
        mix([replace(dataset, splits={"base": ("dog",)})], [1])


def test_scores_on_validation_videos(files: Path, tmp_path: Path, generous: None) -> None:
    job = replace(work(files, "2", "youtube-vis"), validation=(files / "all.json", files), validation_videos=2)
    train_annotated(job, RECIPE, 0, replace(session(tmp_path), evaluate_every=1))
    rows = [json.loads(line) for line in (tmp_path / "rollout.evaluation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 <= row[key] <= 1 for row in rows for key in ("AP", "AP50", "AR10"))
    with pytest.raises(InstformerError, match="--validation-annotations"):
        train_annotated(replace(job, validation=None), RECIPE, 0, replace(session(tmp_path), evaluate_every=1))


def test_validation_knows_a_right_answer(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine that returns the truth."""
    dataset = read_dataset("youtube-vis", files / "all.json", files)
    monkeypatch.setattr(validation, "Engine", OracleEngine)
    OracleEngine.dataset = dataset
    assert validation.video_scores(tiny.model(), torch.device("cpu"), dataset, 2)["AP"] == pytest.approx(1)


def test_the_papers_recipe_is_the_default(tmp_path: Path) -> None:
    assert read_config(find_config("paper"), Recipe()) == Recipe()
    assert Recipe().stage1.steps == 6000 and Recipe().stage2.steps == 600
    changed = tmp_path / "mine.toml"
    changed.write_text("[stage1]\nshort_side = [320, 360]\nprecision = 'fp32'\nclip = 1\n")
    recipe = read_config(find_config(str(changed)), Recipe())
    assert recipe == replace(Recipe(), stage1=replace(Recipe().stage1, short_side=(320, 360), precision="fp32", clip=1))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[stage3]\n", "'stage3' is unknown; use stage1, stage2"),
        ("stage1 = 3", "'stage1' is 3; make it a table, [stage1]"),
        ("[stage1]\nstep = 3", "'stage1.step' is unknown; use steps, "),
        ("[stage1]\nprecision = 'fp16'", "'stage1.precision' is 'fp16'; use one of 'bf16', 'fp32'"),
        ("[stage1]\nshort_side = 240", "'stage1.short_side' is 240; use a list of 2 whole numbers"),
        ("[stage2]\nbatch = 0", "must be 1 or more"),
    ],
)
def test_a_bad_recipe_is_explained(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InstformerError) as caught:
        read_config(file, Recipe())
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_names_what_is_missing(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*changes: str) -> str:
        usual = ["--annotations", str(files / "train.json"), "--images", str(files), "--output", str(tmp_path)]
        model = ["--model", str(files / "model.safetensors")]
        try:
            assert cli.main(["train", "lv-vis", *usual, *model, *changes]) == 2
        except SystemExit as exit:
            assert exit.code == 2
        return capsys.readouterr().err

    assert "none.json" in error("--annotations", str(tmp_path / "none.json"))
    assert "no model is called 'none'" in error("--model", "none")
    assert "config 'none' is unknown; use paper" in error("--config", "none")
    assert "a batch of 16 cannot be shared" in error("--accumulate", "3")
