"""Training on several data sets together: one vocabulary, shares by weight, stills as pseudo-clips, exact resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import benchmark_files
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from instformer_ros import cli
from instformer_ros.data.datasets import read_dataset
from instformer_ros.data.videos import VideoDataset
from instformer_ros.structures import InstformerError
from instformer_ros.training import annotated, tokens
from instformer_ros.training.annotated import Work, train_annotated
from instformer_ros.training.frames import FrameBatch
from instformer_ros.training.loop import Session
from instformer_ros.training.mixture import FrameBatches, Mixture, Source, follow, mix
from instformer_ros.training.recipe import InstanceRecipe, Recipe, RolloutRecipe
from instformer_ros.training.team import Team
from instformer_ros.training.tokens import ClipBatches, VideoTokens
from instformer_ros.weights import checkpoint

RECIPE = Recipe(
    InstanceRecipe(steps=3, batch=2, points=64, short_side=(40, 48), precision="fp32"),
    RolloutRecipe(steps=2, batch=2, videos=3),
)
BRIGHT = 170  # of 255; other pictures stay below, however the light is changed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, videos of YouTube-VIS (giant panda, cat) and stills of COCO (cat, giant panda, kite)."""
    folder = tmp_path_factory.mktemp("files")
    licences = dict.fromkeys(("proposals", "clip", "instclip", "rollout"), "Apache-2.0")
    checkpoint.save(tiny.model(), folder / "model.safetensors", licences, {"origin": "a test"})
    videos, _ = benchmark_files.youtube_vis(folder / "videos", videos=3)
    benchmark_files.save(folder / "lv-vis.json", videos)
    for category in videos["categories"]:
        del category["partition"]
    benchmark_files.save(folder / "videos.json", videos)
    stills, _ = benchmark_files.coco(folder / "stills")
    benchmark_files.picture(folder / "stills" / "000000000003.png", 250)  # the kite's, brighter than all others
    stills["categories"].append({"id": 8, "name": "kite"})
    square = benchmark_files.rle(benchmark_files.square(14))
    stills["annotations"].append({"id": 9, "image_id": 3, "category_id": 8, "segmentation": square, "iscrowd": 0})
    benchmark_files.save(folder / "stills.json", stills)
    return folder


def source(files: Path, weight: float = 0.5) -> Source:
    return Source("coco", files / "stills.json", files / "stills", weight)


def work(files: Path, *also: Source, stage: str = "both") -> Work:
    model = str(files / "model.safetensors")
    return Work("youtube-vis", files / "videos.json", files / "videos", model, stage, also=also)


def session(folder: Path) -> Session:
    return Session(folder, Team(torch.device("cpu")), workers=0, save_every=2)


def mixture(files: Path, weight: float = 0.5) -> Mixture:
    job = work(files, source(files, weight))
    return mix([part.read() for part in job.sources], [part.weight for part in job.sources])


def test_what_has_the_same_name_is_the_same_class(files: Path) -> None:
    mixed = mixture(files)
    assert mixed.classes == ("giant panda", "cat", "dog", "kite")
    batches = FrameBatches(mixed, 2, 0, (30, 30), (0.0, 0.0, 0.0))
    seen = {(bool(image.max() > BRIGHT), label) for n in range(40) for image, label in labelled(batches(n))}
    assert seen == {(True, 3), (False, 0), (False, 1)}  # no picture shows a dog


def labelled(batch: FrameBatch) -> list[tuple[torch.Tensor, int]]:
    rows = range(len(batch.images))
    return [(batch.images[i], int(n)) for i in rows for n in batch.targets.labels[i, : batch.targets.counts[i]]]


def test_a_class_that_one_set_calls_novel_is_trained_on_in_none(files: Path) -> None:
    lvvis = read_dataset("lv-vis", files / "lv-vis.json", files / "videos")
    coco = source(files).read()
    assert mix([lvvis, coco], [1, 1]).classes == ("giant panda", "kite")
    with pytest.raises(InstformerError, match=r"'coco .*stills\.json': no object of a training class"):
        mix([coco, replace(lvvis, splits={"novel": coco.classes, "base": lvvis.classes})], [1, 1])


def test_frames_come_in_the_shares_asked_for_and_from_their_number_alone(files: Path) -> None:
    whole = FrameBatches(mixture(files, 3.0), 4, 0, (30, 30), (0.0, 0.0, 0.0))
    bright = [bool(image.max() > BRIGHT) for n in range(100) for image in whole(n).images]
    assert 0.32 < np.mean(bright) < 0.43  # one of two stills, which are three quarters of the frames
    half = FrameBatches(mixture(files, 3.0), 2, 0, (30, 30), (0.0, 0.0, 0.0))
    two = [frame for n in (6, 7) for frame in labelled(half(n))]
    for (image, label), (other, name) in zip(labelled(whole(3)), two, strict=True):
        assert torch.equal(image, other) and label == name


@dataclass
class Counted:
    """A video that knows its number; a still where ``length`` is 1."""

    number: int
    length: int = 3
    height: int = 20
    width: int = 30
    names: tuple[str, ...] = ("other", "cat")

    def frame(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        masks = np.zeros((2, self.height, self.width), bool)
        masks[1, 5:15, 8:20] = True
        return np.where(masks[1, :, :, None], 250, np.uint8(self.number)).repeat(3, 2).astype(np.uint8), masks


def counted(first: int, count: int, length: int = 3) -> VideoDataset:
    return VideoDataset(f"set {first}", [Counted(first + n, length) for n in range(count)], ("cat",))


def numbers(videos: Sequence[object]) -> list[int]:
    return [video.number for video in videos if isinstance(video, Counted)]


def test_videos_to_follow_are_shared_by_weight() -> None:
    chosen = follow(mix([counted(0, 50), counted(100, 50), counted(200, 3)], [1, 2, 1]), 20, seed=0)
    of = np.array(numbers(chosen.videos)) // 100
    assert np.bincount(of).tolist() == [5, 10, 3]
    assert len(set(numbers(chosen.videos))) == 18
    chances = np.array(chosen.chances)
    assert [chances[of == n].sum() for n in range(3)] == pytest.approx([0.25, 0.5, 0.25])  # three videos, more often
    again = follow(mix([counted(0, 50), counted(100, 50), counted(200, 3)], [1, 2, 1]), 20, seed=0)
    assert numbers(again.videos) == numbers(chosen.videos)
    other = follow(mix([counted(0, 50), counted(100, 50), counted(200, 3)], [1, 2, 1]), 20, seed=1)
    assert numbers(other.videos) != numbers(chosen.videos)
    little = follow(mix([counted(0, 50), counted(100, 50)], [1, 0.001]), 20, seed=0)
    assert sum(number >= 100 for number in numbers(little.videos)) == 1  # never none


def test_a_still_is_followed_as_a_pseudo_clip() -> None:
    chosen = follow(mix([counted(0, 1), counted(7, 1, length=1)], [1, 1]), 2, seed=3)
    images, masks = zip(*chosen.open(1), strict=True)
    assert len(images) == 5 and all(mask.shape == (1, 20, 30) for mask in masks)  # the cat's alone
    assert len({mask.tobytes() for mask in masks}) == 5
    for image, mask in zip(images, masks, strict=True):
        assert ((image[..., 0] > 180) ^ mask[0]).sum() < 0.3 * mask.sum()  # picture and mask move as one
    again, _ = zip(*chosen.open(1), strict=True)
    assert all(np.array_equal(one, two) for one, two in zip(images, again, strict=True))
    assert len(list(chosen.open(0))) == 3


def test_clips_are_drawn_by_their_videos_chances() -> None:
    videos = [VideoTokens(torch.full((5, 2, 3), v), torch.zeros(5, 1).long(), torch.ones(5, 1, 2)) for v in range(3)]
    clips = ClipBatches(videos, 400, 0, [0.7, 0.0, 0.3])(0)
    drawn = np.bincount(clips.tokens[:, 0, 0, 0].int().numpy(), minlength=3) / 400
    assert drawn[1] == 0 and 0.64 < drawn[0] < 0.76


def test_both_stages_train_on_both_sets_and_resume_exactly(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_LEAST_OVERLAP", 0.0)  # the masks of an untrained model meet no object
    job = work(files, source(files))
    path = train_annotated(job, RECIPE, 0, session(tmp_path / "whole"))
    notes = checkpoint.read_header(path)["notes"]
    assert isinstance(notes, dict) and notes["trained_on"].startswith("youtube-vis, coco, stage both")
    lengths = [len(load_file(file)["tokens"]) for file in sorted((tmp_path / "whole" / "tokens").iterdir())]
    assert lengths == [3, 3, 5]  # two videos and a pseudo-clip

    class Failing(FrameBatches):
        def __call__(self, number: int) -> FrameBatch:
            if number == 2:
                raise KeyboardInterrupt
            return super().__call__(number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(annotated, "FrameBatches", Failing)
        train_annotated(job, RECIPE, 0, session(tmp_path / "killed"))
    resumed = train_annotated(job, RECIPE, 0, session(tmp_path / "killed"))
    one, other = checkpoint.load(path).state_dict(), checkpoint.load(resumed).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    alone = checkpoint.load(train_annotated(work(files), RECIPE, 0, session(tmp_path / "alone"))).state_dict()
    assert not all(torch.equal(one[name], alone[name]) for name in one), "the second set teaches something"
    assert "2.0" not in json.loads((tmp_path / "whole" / "plan.json").read_text())["also"]
    with pytest.raises(InstformerError, match=r"another plan \(also: coco .*stills 0\.5, now coco .*stills 2\.0\)"):
        train_annotated(work(files, source(files, 2.0)), RECIPE, 0, session(tmp_path / "whole"))
    with pytest.raises(InstformerError, match=r"another plan \(also: coco .*stills 0\.5, now nothing\)"):
        train_annotated(work(files), RECIPE, 0, session(tmp_path / "whole"))


def test_stills_alone_can_be_followed(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_LEAST_OVERLAP", 0.0)
    job = Work("coco", files / "stills.json", files / "stills", str(files / "model.safetensors"), "2")
    path = train_annotated(job, RECIPE, 0, session(tmp_path))
    before, after = checkpoint.load(files / "model.safetensors").state_dict(), checkpoint.load(path).state_dict()
    assert {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"rollout"}


@pytest.mark.parametrize(
    ("also", "words"),
    [
        (("bdd", "a.json", "b", "1"), "'bdd': KIND is one of youtube-vis, lv-vis, coco"),
        (("coco", "a.json", "b", "much"), "'much': WEIGHT is a number above 0"),
        (("coco", "a.json", "b", "0"), "'0': WEIGHT is a number above 0"),
        (("coco", "a.json", "b", "inf"), "'inf': WEIGHT is a number above 0"),
        (("coco", "a.json", "b"), "expected 4 arguments"),
        (("coco", "FILES/none.json", "FILES/stills", "1"), "none.json"),
        (("coco", "FILES/stills.json", "FILES/none", "1"), "none"),
        (("coco", "FILES/videos.json", "FILES/stills", "1"), "videos.json"),
    ],
)
def test_what_is_wrong_with_a_further_set_is_said(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], also: Sequence[str], words: str
) -> None:
    arguments = ["train", "youtube-vis", "--annotations", str(files / "videos.json"), "--images", str(files / "videos")]
    arguments += ["--model", str(files / "model.safetensors"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    try:
        code = cli.main([*arguments, "--also", *(word.replace("FILES", str(files)) for word in also)])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert code == 2 and words in error
    assert not list(tmp_path.glob("out/*.pt"))


def test_the_command_line_hands_further_sets_on(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instformer_ros.training import command

    seen: list[Work] = []
    monkeypatch.setattr(command, "train_annotated", lambda work, *_: seen.append(work) or tmp_path)
    monkeypatch.setattr(command, "_finish", lambda *_: None)
    usual = ["--annotations", "a.json", "--images", "a", "--model", "m", "--output", str(tmp_path), "--device", "cpu"]
    further = ["--also", "coco", "b.json", "b", "0.5", "--also", "lv-vis", "c.json", "c", "2"]
    assert cli.main(["train", "youtube-vis", *usual, *further]) == 0
    (job,) = seen
    assert [str(part) for part in job.sources] == [
        "youtube-vis a.json a 1.0",
        "coco b.json b 0.5",
        "lv-vis c.json c 2.0",
    ]
