"""Training: it learns, it resumes bit for bit, and its parts do what the paper says of them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.data import toyvis
from instformer_ros.engine import Engine, Settings
from instformer_ros.model.clip import Tokenizer
from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.structures import InstformerError
from instformer_ros.training import run
from instformer_ros.training.curves import STAGES
from instformer_ros.training.loop import Schedule, parameter_groups, run_stage
from instformer_ros.training.pretrain import (
    SceneBatches,
    Scenes,
    contrastive_loss,
    encode_windows,
    make_scenes,
    pretrain_losses,
)
from instformer_ros.training.stage1 import AdapterStage, FrameBatches, ProposalOptions, ProposalStage
from instformer_ros.training.stage2 import ClipBatches, RolloutStage, VideoTokens, extract
from instformer_ros.weights import checkpoint

CPU = torch.device("cpu")
BASE = toyvis.class_names("base")
PLAN = replace(
    run.SMOKE, scenes=80, wide_steps=2, wide_schedule=4, wide_batch=8, close_steps=2, close_batch=8, again_steps=2,
    again_batch=8, whole_steps=2, whole_batch=4, proposal_steps=40, proposal_batch=1, adapter_steps=2, adapter_batch=1,
    rollout_videos=1, rollout_steps=2, rollout_batch=2,
)  # fmt: skip


def rows(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# -- the whole of it --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole, very short training."""
    folder = tmp_path_factory.mktemp("run") / "toyvis"
    assert run.train_toyvis(PLAN, 0, folder, CPU) == folder / "toyvis.safetensors"
    return folder


def test_every_stage_runs_and_the_masks_get_better(trained: Path) -> None:
    """That the other stages learn as well is shown below, by what each can learn in seconds."""
    first, last = rows(trained / "proposals.jsonl")
    assert last["loss"] < first["loss"]
    for stage in STAGES:
        assert all(math.isfinite(row["loss"]) for row in rows(trained / f"{stage}.jsonl")), stage


def test_the_result_is_a_checkpoint_that_segments(trained: Path) -> None:
    header = checkpoint.read_header(trained / "toyvis.safetensors")
    assert header["licences"] == dict.fromkeys(("proposals", "clip", "instclip", "rollout"), "Apache-2.0")
    assert isinstance(header["notes"], dict)
    assert header["notes"]["seed"] == "0"
    engine = Engine.load(trained / "toyvis.safetensors", "cpu", Settings(score_threshold=0, objectness_threshold=0))
    engine.set_vocabulary(toyvis.ALL_NAMES)
    assert engine.unknown_words == (), "all words of ToyVIS are in the token table"
    frame = engine.step({"cam": toyvis.ToyVideo(5).frame(0)[0]})["cam"]
    assert frame.instances
    assert (trained / "curves.png").stat().st_size > 10_000


def test_the_same_command_again_changes_nothing(trained: Path) -> None:
    path = trained / "toyvis.safetensors"
    before, header = load_file(path), checkpoint.read_header(path)
    logs = {file.name: file.read_text() for file in trained.glob("*.jsonl")}
    assert sorted(logs) == sorted(f"{stage}.jsonl" for stage in STAGES)
    run.train_toyvis(PLAN, 0, trained, CPU)
    after = load_file(path)
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert checkpoint.read_header(path) == header
    assert {file.name: file.read_text() for file in trained.glob("*.jsonl")} == logs


def test_a_folder_belongs_to_one_plan_and_seed(tmp_path: Path) -> None:
    run._claim(tmp_path / "a", PLAN, 3)
    run._claim(tmp_path / "a", PLAN, 3)
    for plan, seed in ((PLAN, 4), (replace(PLAN, scenes=81), 3)):
        with pytest.raises(InstformerError) as caught:
            run.train_toyvis(plan, seed, tmp_path / "a", CPU)
        assert str(caught.value) == (
            f"{tmp_path / 'a'} holds the progress of another plan or seed; train into another folder"
        )


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "plan.json").write_text("{")
    for folder in (tmp_path / "file", tmp_path / "b"):
        with pytest.raises(InstformerError) as caught:
            run._claim(folder, PLAN, 0)
        assert str(folder / "plan.json") in str(caught.value)
        assert "\n" not in str(caught.value)


# -- the loop ---------------------------------------------------------------------------------------------------------

SCHEDULE = Schedule(steps=24, learning_rate=0.05, warmup=4)


def numbers(step: int) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(step))


class Small(nn.Module):
    """Has what a resume may get wrong: random numbers, batch statistics, weights with and without decay."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 1))
        self.seen: list[int] = []

    def forward(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        self.seen.append(step)
        return {"loss": F.mse_loss(self.net(batch)[:, 0], batch.sum(1)), "one": torch.ones(())}


def learn(
    folder: Path, stop_after: int | None = None, width: int = 6, workers: int = 0, save_every: int = 250
) -> Small:
    small = Small(width)
    run_stage(
        "small", small, numbers, small, SCHEDULE, folder, workers=workers, log_every=10, stop_after=stop_after,
        save_every=save_every,
    )  # fmt: skip
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

    small = Small()

    def compute(batch: Tensor, step: int) -> dict[str, Tensor]:
        if step == 22:
            raise Killed
        return small(batch, step)

    with pytest.raises(Killed):
        run_stage("small", small, numbers, compute, SCHEDULE, tmp_path, workers=0, log_every=5, save_every=12)
    resumed = Small()
    run_stage("small", resumed, numbers, resumed, SCHEDULE, tmp_path, workers=0, log_every=5, save_every=12)
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
        learn(tmp_path, width=7 if damage == "other" else 6)
    assert str(caught.value).startswith(f"cannot resume from {file}: ")
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    small = Small()

    def compute(batch: Tensor, step: int) -> dict[str, Tensor]:
        losses = small(batch, step)
        return losses if step < 2 else {"loss": losses["loss"] * float("nan")}

    with pytest.raises(InstformerError, match="small: the loss is nan at step 2; lower the learning rate"):
        run_stage("small", small, numbers, compute, SCHEDULE, tmp_path, workers=0)


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


def fit(stage: nn.Module, batch: Any, steps: int, rate: float) -> list[float]:
    """Losses of one batch learnt by heart."""
    optimizer = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        loss = stage(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# -- image-text pre-training ------------------------------------------------------------------------------------------


def test_true_captions_of_other_images_are_no_negatives() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(3, 6, generator=generator), dim=-1) for _ in range(2))
    true = torch.eye(3, dtype=torch.bool)
    true[0, 2] = True  # caption 2 is true of image 0 as well
    loss, accuracy = contrastive_loss(images, texts, torch.tensor(1.5), true)
    logits = (math.exp(1.5) * images @ texts.t()).tolist()

    def entropy(values: list[float], target: float) -> float:
        return math.log(sum(map(math.exp, values))) - target

    by_image = [
        entropy(logits[0][:2], logits[0][0]), entropy(logits[1], logits[1][1]), entropy(logits[2], logits[2][2])
    ]  # fmt: skip
    columns = list(zip(*logits, strict=True))
    by_text = [
        entropy(list(columns[0]), logits[0][0]), entropy(list(columns[1]), logits[1][1]),
        entropy(list(columns[2])[1:], logits[2][2]),
    ]  # fmt: skip
    assert float(loss) == pytest.approx((sum(by_image) + sum(by_text)) / 6, rel=1e-5)
    picked = [logits[0][0] > logits[0][1], max(logits[1]) == logits[1][1], max(logits[2]) == logits[2][2]]
    assert float(accuracy) == pytest.approx(sum(picked) / 3)


def test_which_captions_are_true_of_which_scenes() -> None:
    objects = [("red plain star",), ("blue plain star",), ("red plain star", "green dotted ring")]
    scenes = Scenes(
        np.zeros((3, 16, 16, 3), np.uint8),
        ["a red plain star", "a blue plain star", "a red plain star and a green dotted ring"],
        objects,  # type: ignore[arg-type]
    )
    tokenizer = Tokenizer(replace(tiny.clip_config(), tokens=None), 24)
    batches = SceneBatches(scenes, tokenizer, 24, seed=0)
    library = tokenizer._tokenizer
    shortened = 0
    for step in range(4):
        batch, again = batches(step), batches(step)
        assert torch.equal(batch.true, again.true)
        assert torch.equal(batch.tokens, again.tokens)
        assert batch.true.diagonal().all(), "every caption is true of its own image"
        captions = [library.decode(row[row > 0].tolist()) for row in batch.tokens]
        captions = [c.replace("<start_of_text>", "").replace("<end_of_text>", "").strip() for c in captions]
        wanted = torch.zeros(24, 24, dtype=torch.bool)
        for j, caption in enumerate(captions):
            mentions = [set(m.split()) - {"a"} for m in caption.split(" and ")]
            shortened += any(len(m) < 3 for m in mentions)
            for i, other in enumerate(captions):
                # what the image shows can be told from its caption's number of mentions and, of a single one, colour
                for k, shown in enumerate(objects):
                    holds = all(any(m <= set(name.split()) for name in shown) for m in mentions)
                    if k == _scene_of(other):
                        wanted[i, j] = holds
        known = torch.tensor([_scene_of(caption) >= 0 for caption in captions])
        assert known.sum() > 8
        assert torch.equal(batch.true[known], wanted[known])
    assert shortened > 5


def _scene_of(caption: str) -> int:
    """Which of the three scenes a caption was made for; -1 where it lost the word that tells."""
    if " and " in caption:
        return 2
    return 1 if "blue" in caption else 0 if "red" in caption else -1


def test_scenes_do_not_depend_on_the_number_of_workers() -> None:
    one, two = (make_scenes(0, (48, 48), 6, BASE, workers) for workers in (1, 2))
    assert one.captions == two.captions
    assert np.array_equal(one.images, two.images)
    assert all(name in caption for names, caption in zip(one.objects, one.captions, strict=True) for name in names)


class Pretraining(nn.Module):
    """The CLIP half alone, as the pre-training trains it."""

    def __init__(self) -> None:
        super().__init__()
        self.instclip = tiny.instclip(lora_rank=0, perturbed=False)
        self.instclip.clip.requires_grad_(True)

    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        return pretrain_losses(self.instclip, batch)


def test_the_pre_training_learns_a_batch_by_heart() -> None:
    stage = Pretraining()
    tokenizer = Tokenizer(tiny.clip_config(), 24)
    batch = SceneBatches(make_scenes(0, (48, 48), 24, BASE), tokenizer, 8, 0)(0)
    losses = fit(stage, batch, 30, 3e-3)
    assert losses[0] > 0.5
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_a_window_of_the_whole_frame_is_clip() -> None:
    net = tiny.instclip(lora_rank=0)
    images = tiny.pictures()
    wanted = net.clip.encode_image((images - net.pixel_mean) / net.pixel_std)
    assert (encode_windows(net, images, torch.zeros(2, 2, dtype=torch.int64)) - wanted).abs().max() < 1e-5
    window = images[..., :24, :32]
    there, elsewhere = (encode_windows(net, window, torch.tensor([c, c])) for c in ([0, 0], [3, 4]))
    assert (there - elsewhere).abs().max() > 1e-3, "the place in the frame counts"


# -- stage 1 ----------------------------------------------------------------------------------------------------------


def test_frames_are_made_from_the_step_alone() -> None:
    batches = FrameBatches(3, 0, BASE)
    first, other = batches(5), batches(6)
    again = FrameBatches(3, 0, BASE)(5)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets.masks, again.targets.masks)
    assert not torch.equal(first.images, other.images)
    targets = first.targets
    for b, count in enumerate(targets.counts):
        assert targets.masks[b, :count].flatten(1).any(1).all(), "only visible objects"
        assert not targets.masks[b, count:].any()
        assert (targets.labels[b, :count] >= 0).all()
        assert (targets.labels[b, count:] == -1).all()
    assert first.to(torch.device("meta")).images.is_meta
    assert first.to(torch.device("meta")).targets.masks.is_meta
    assert first.to(torch.device("meta")).targets.labels.is_meta


def test_the_proposal_network_learns_a_batch_by_heart() -> None:
    torch.manual_seed(0)
    model = tiny.model().train()
    stage = ProposalStage(model.proposals, ProposalOptions(points=128))
    batch = FrameBatches(2, 0, BASE)(0)
    losses = fit(stage, batch, 25, 3e-3)
    assert losses[-1] < 0.8 * losses[0]
    assert set(stage(batch, 0)) == {"loss", "objectness", "mask", "dice", "margin"}


def test_the_adapters_learn_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    model = tiny.model().train()
    texts = F.normalize(torch.randn(len(BASE), model.instclip.embed_dim), dim=-1)
    stage = AdapterStage(model, texts, points=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = fit(stage, FrameBatches(2, 1, BASE)(0), 25, 1e-2)
    assert losses[-1] < 0.8 * losses[0]
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    learning = {f"instclip.{n}" for n, _ in model.instclip.named_parameters() if not n.startswith("clip.")}
    assert moved == learning
    assert not any(key.startswith("proposals") for key in stage.state_dict())


# -- stage 2 ----------------------------------------------------------------------------------------------------------


def test_the_state_is_held_while_an_object_is_absent() -> None:
    """Against a loop over objects, each rolled through the frames in which it is seen."""
    torch.manual_seed(0)
    rollout = RolloutTracker(RolloutConfig(), 10)
    for parameter in rollout.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(5, 6, 10)
    targets = torch.tensor([[0, -1, 3], [1, 2, -1], [-1, -1, 4], [5, 0, -1], [2, 1, 0]])
    result = RolloutStage(rollout)([VideoTokens(tokens, targets)], 0)
    total, count, right = 0.0, 0, 0
    for k in range(3):
        seen = [t for t in range(5) if targets[t, k] >= 0]
        state = torch.zeros(1, 10)
        for now, following in itertools.pairwise(seen):
            predicted, state = rollout(tokens[now, targets[now, k]][None], state)
            cosine = F.cosine_similarity(predicted, tokens[following], dim=-1)
            target = int(targets[following, k])
            total += float(-F.log_softmax(cosine / 0.07, 0)[target].detach())
            right += int(cosine.argmax()) == target
            count += 1
    assert count == 7
    assert float(result["loss"].detach()) == pytest.approx(total / count, rel=1e-4)
    assert float(result["accuracy"]) == pytest.approx(right / count)


def test_the_tracker_learns_how_objects_change() -> None:
    """Tokens turn by a fixed rotation from frame to frame, which plain cosine matching cannot know."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(12, 12)).Q
    tokens = [F.normalize(torch.randn(6, 12), dim=-1)]
    for _ in range(4):
        tokens.append(tokens[-1] @ rotation)
    clip = VideoTokens(torch.stack(tokens), torch.arange(6).expand(5, -1))
    stage = RolloutStage(RolloutTracker(RolloutConfig(), 12))
    before = stage([clip], 0)
    losses = fit(stage, [clip], 60, 1e-2)
    assert float(before["accuracy"]) < 0.6
    assert float(stage([clip], 0)["accuracy"]) == 1
    assert losses[-1] < 0.2 * losses[0]


def test_clips_are_in_order_and_near_each_other() -> None:
    videos = [VideoTokens(torch.arange(60.0)[:, None, None] + 100 * v, torch.arange(60)[:, None]) for v in range(3)]
    batches = ClipBatches(videos, 8, seed=0)
    seen = set()
    for step in range(6):
        clips = batches(step)
        assert len(clips) == 8
        for clip, again in zip(clips, batches(step), strict=True):
            assert torch.equal(clip.tokens, again.tokens)
            frames = clip.targets[:, 0].tolist()
            assert len(frames) == 5
            assert frames == sorted(set(frames))
            assert frames[-1] - frames[0] <= 40
            video = int(clip.tokens[0, 0, 0]) // 100
            assert (clip.tokens[:, 0, 0] - 100 * video).tolist() == frames, "tokens and targets of the same frames"
            seen.add(video)
    assert seen == {0, 1, 2}


def test_extracted_tokens_name_the_query_of_each_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that proposes the truth in a known order, some objects left out."""
    video = toyvis.ToyVideo(1_000_000, BASE)
    masks = torch.from_numpy(np.stack([seen for _, seen in video])).float()
    count = masks.shape[1]
    order = list(range(count))[::-1]
    model = tiny.model()
    frames = iter(range(len(masks)))
    truth = F.avg_pool2d(masks, 4)[:, order] - 0.5

    class Truth(nn.Module):
        def forward(self, images: Tensor) -> Any:
            rows = [next(frames) for _ in images]
            seen = model(images[..., ::4, ::4])
            seen.proposals.mask_logits = truth[rows]
            seen.proposals.objectness = torch.ones(len(rows), count)
            return seen

    net = Truth()
    net.rollout = model.rollout
    (extracted,) = extract(net, 1, 0, BASE, CPU)  # type: ignore[arg-type]
    assert extracted.tokens.shape == (len(masks), tiny.QUERIES, 32 + 24)
    assert extracted.targets.shape == masks.shape[:2]
    visible = (truth > 0).flatten(2).any(-1)[:, order]
    wanted = torch.tensor([order.index(k) for k in range(count)]).expand(len(masks), -1)
    assert torch.equal(extracted.targets, wanted.where(visible, -1))
    assert (~visible).any(), "some object is hidden in some frame"
