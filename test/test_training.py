"""Training: it learns, and its stages do what the paper says of them."""

from __future__ import annotations

import itertools
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
from training_rig import ALONE, BASE, PLAN, fit, losses_of, rows

from instformer_ros.data import toyvis
from instformer_ros.engine import Engine, Settings
from instformer_ros.model.clip import Tokenizer
from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.structures import InstformerError
from instformer_ros.training import curves, run
from instformer_ros.training.claim import claim
from instformer_ros.training.frames import ToyFrames
from instformer_ros.training.loop import Session
from instformer_ros.training.pretrain import (
    SceneBatches,
    Scenes,
    contrastive_loss,
    encode_windows,
    make_scenes,
)
from instformer_ros.training.run import STAGES
from instformer_ros.training.stage1 import AdapterStage, ProposalOptions, ProposalStage
from instformer_ros.training.stage2 import RolloutStage
from instformer_ros.training.tokens import ClipBatches, Clips, VideoTokens, extract
from instformer_ros.weights import checkpoint

# -- the whole of it --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole, very short training."""
    folder = tmp_path_factory.mktemp("run") / "toyvis"
    assert run.train_toyvis(PLAN, 0, Session(folder, ALONE)) == folder / "toyvis.safetensors"
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


def test_the_same_command_again_changes_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And makes nothing again: no scenes, no tokens."""
    path = trained / "toyvis.safetensors"
    before, header = load_file(path), checkpoint.read_header(path)
    logs = {file.name: file.read_text() for file in trained.glob("*.jsonl")}
    assert sorted(logs) == sorted(f"{stage}.jsonl" for stage in STAGES)
    for dear in ("make_scenes", "extract"):
        monkeypatch.setattr(run, dear, lambda *arguments: pytest.fail("made again"))
    run.train_toyvis(PLAN, 0, Session(trained, ALONE))
    after = load_file(path)
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert checkpoint.read_header(path) == header
    assert {file.name: file.read_text() for file in trained.glob("*.jsonl")} == logs


def test_curves_are_drawn(trained: Path) -> None:
    assert curves.plot_curves(trained, STAGES).stat().st_size > 10_000


def test_a_folder_belongs_to_one_plan_and_seed(tmp_path: Path) -> None:
    claim(tmp_path / "a", {"seed": 3, "steps": 5}, ALONE)
    claim(tmp_path / "a", {"seed": 3, "steps": 5}, ALONE)
    for plan, difference in (({"seed": 4, "steps": 5}, "seed: 3, now 4"), ({"seed": 3}, "steps: 5, now None")):
        with pytest.raises(InstformerError) as caught:
            claim(tmp_path / "a", plan, ALONE)
        assert str(caught.value) == (
            f"{tmp_path / 'a'} holds the progress of another plan ({difference}); train into another folder"
        )
    with pytest.raises(InstformerError, match="another plan"):
        run.train_toyvis(PLAN, 4, Session(tmp_path / "a", ALONE))


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "plan.json").write_text("{")
    for folder in (tmp_path / "file", tmp_path / "b"):
        with pytest.raises(InstformerError) as caught:
            claim(folder, {"seed": 0}, ALONE)
        assert str(folder / "plan.json") in str(caught.value)
        assert "\n" not in str(caught.value)


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


def test_the_pre_training_learns_a_batch_by_heart() -> None:
    stage = run.PretrainStage(tiny.instclip(lora_rank=0, perturbed=False))
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
    batches = ToyFrames(3, 0, BASE)
    first, other = batches(5), batches(6)
    again = ToyFrames(3, 0, BASE)(5)
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
    batch = ToyFrames(2, 0, BASE)(0)
    losses = fit(stage, batch, 25, 3e-3)
    assert losses[-1] < 0.8 * losses[0]
    assert set(losses_of(stage, batch)) == {"loss", "objectness", "mask", "dice", "margin"}


def test_more_objects_than_queries() -> None:
    """Some objects have no query then; the rest learn."""
    torch.manual_seed(0)
    model = tiny.model().train()
    batch = ToyFrames(2, 0, BASE)(0)
    targets = batch.targets
    targets.masks, targets.labels = targets.masks.repeat(1, 4, 1, 1), targets.labels.clamp(min=0).repeat(1, 4)
    targets.counts = [tiny.QUERIES + 3, 2]
    assert targets.masks.shape[1] > tiny.QUERIES + 3
    texts = F.normalize(torch.randn(len(BASE), model.instclip.embed_dim), dim=-1)
    for stage in (AdapterStage(model, texts, 64), ProposalStage(model.proposals, ProposalOptions(points=64))):
        assert stage.objects(batch) == tiny.QUERIES + 2
        assert torch.isfinite(losses_of(stage, batch)["loss"])


def test_the_adapters_learn_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    model = tiny.model().train()
    texts = F.normalize(torch.randn(len(BASE), model.instclip.embed_dim), dim=-1)
    stage = AdapterStage(model, texts, points=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = fit(stage, ToyFrames(2, 1, BASE)(0), 25, 1e-2)
    assert losses[-1] < 0.8 * losses[0]
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    learning = {f"instclip.{n}" for n, _ in model.instclip.named_parameters() if not n.startswith("clip.")}
    assert moved == learning
    assert not any(key.startswith("proposals") for key in stage.state_dict())


# -- stage 2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_duplicates", [False, True])
def test_the_state_is_held_while_an_object_is_absent(mask_duplicates: bool) -> None:
    """Against a loop over objects, each rolled through the frames in which it is seen."""
    torch.manual_seed(0)
    rollout = RolloutTracker(RolloutConfig(), 10)
    for parameter in rollout.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(5, 6, 10)
    targets = torch.tensor([[0, -1, 3], [1, 2, -1], [-1, -1, 4], [5, 0, -1], [2, 1, 0]])
    same = F.one_hot(targets.clamp(min=0), 6).bool() & (targets >= 0)[..., None]
    same[3, 0, 1] = True  # query 1 shows object 0 as well
    clips = Clips(tokens[None], targets[None], same[None])
    result = losses_of(RolloutStage(rollout, mask_duplicates), clips)
    total, count, right = 0.0, 0, 0
    for k in range(3):
        seen = [t for t in range(5) if targets[t, k] >= 0]
        state = torch.zeros(1, 10)
        for now, following in itertools.pairwise(seen):
            predicted, state = rollout(tokens[now, targets[now, k]][None], state)
            cosine = F.cosine_similarity(predicted, tokens[following], dim=-1)
            target = int(targets[following, k])
            allowed = torch.ones(6, dtype=torch.bool)
            allowed[1] = not (mask_duplicates and (following, k) == (3, 0))
            logits = (cosine / 0.07).masked_fill(~allowed, float("-inf"))
            total += float(-F.log_softmax(logits, 0)[target].detach())
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
    clip = Clips(torch.stack(tokens)[None], torch.arange(6).expand(1, 5, -1), torch.eye(6).bool().expand(1, 5, -1, -1))
    stage = RolloutStage(RolloutTracker(RolloutConfig(), 12))
    before = losses_of(stage, clip)
    losses = fit(stage, clip, 60, 1e-2)
    assert float(before["accuracy"]) < 0.6
    assert float(losses_of(stage, clip)["accuracy"]) == 1
    assert losses[-1] < 0.2 * losses[0]


def counted(length: int, video: int) -> VideoTokens:
    """Tokens and targets that tell the frame and the video."""
    frames = torch.arange(length)
    return VideoTokens(frames[:, None, None] + 100.0 * video, frames[:, None], torch.ones(length, 1, 1).bool())


def test_clips_are_in_order_and_near_each_other() -> None:
    batches = ClipBatches([counted(60, v) for v in range(3)], 8, seed=0)
    seen = set()
    for number in range(6):
        clips, again = batches(number), batches(number)
        assert torch.equal(clips.tokens, again.tokens)
        assert clips.tokens.shape == (8, 5, 1, 1)
        for tokens, targets in zip(clips.tokens[:, :, 0, 0], clips.targets[:, :, 0].tolist(), strict=True):
            assert targets == sorted(set(targets))
            assert targets[-1] - targets[0] <= 40
            video = int(tokens[0]) // 100
            assert (tokens - 100 * video).tolist() == targets, "tokens and targets of the same frames"
            seen.add(video)
    assert seen == {0, 1, 2}


def test_a_short_video_teaches_each_of_its_frames_once() -> None:
    clips = ClipBatches([counted(3, 0)], 2, seed=0)(0)
    assert clips.tokens[:, :, 0, 0].tolist() == [[0, 1, 2, 2, 2]] * 2
    assert clips.targets[:, :, 0].tolist() == [[0, 1, 2, -1, -1]] * 2


def test_two_small_batches_are_one_large_one() -> None:
    clips = [counted(60, v) for v in range(3)]
    for source in (lambda size: ClipBatches(clips, size, 0), lambda size: ToyFrames(size, 0, BASE)):
        large, first, second = source(4)(1), source(2)(2), source(2)(3)
        for name in ("tokens", "images"):
            if hasattr(large, name):
                halves = torch.cat([getattr(first, name), getattr(second, name)])
                assert torch.equal(getattr(large, name), halves), name


def test_extracted_tokens_name_the_query_of_each_object(tmp_path: Path) -> None:
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
            seen = model(images[..., ::4, ::4])  # smaller, for time
            seen.proposals.mask_logits = truth[rows]
            seen.proposals.objectness = torch.ones(len(rows), count)
            return seen

    net = Truth()
    net.rollout = model.rollout
    net.config = replace(model.config, short_side=192, long_side=384)
    (extracted,) = extract(net, 1, lambda index: video, tmp_path, ALONE)  # type: ignore[arg-type]
    assert extracted.tokens.shape == (len(masks), tiny.QUERIES, 32 + 24)
    assert extracted.targets.shape == masks.shape[:2]
    visible = (truth > 0).flatten(2).any(-1)[:, order]
    wanted = torch.tensor([order.index(k) for k in range(count)]).expand(len(masks), -1)
    assert torch.equal(extracted.targets, wanted.where(visible, -1))
    assert (~visible).any(), "some object is hidden in some frame"
    assert torch.equal(extracted.same.any(-1), visible)
    assert extracted.same.gather(2, wanted.clamp(min=0)[..., None])[..., 0].equal(visible)
    (again,) = extract(net, 1, lambda index: pytest.fail("again"), tmp_path, ALONE)  # type: ignore[arg-type]
    assert torch.equal(again.tokens, extracted.tokens)
