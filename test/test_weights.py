"""Public weights become a checkpoint of ours: exactly, offline, and without running what a file asks for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import open_clip
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from instformer_ros.cli import main
from instformer_ros.engine import Engine
from instformer_ros.model.config import SwinConfig
from instformer_ros.model.negatives import COMMON
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.structures import InstformerError
from instformer_ros.weights import checkpoint
from instformer_ros.weights.arrays import read_arrays
from instformer_ros.weights.detectron2 import DETECTRON2
from instformer_ros.weights.mask2former import read_proposals
from instformer_ros.weights.openclip import find_clip
from instformer_ros.weights.transformers import TRANSFORMERS

BACKBONES = pytest.mark.parametrize("backbone", [foreign.RESNET, foreign.SWIN], ids=["resnet", "swin"])


@pytest.fixture(autouse=True, scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> None:
    foreign.register_tiny(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture(scope="module")
def clip_file(registered: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.write_clip(tmp_path_factory.mktemp("clip") / "clip.safetensors")


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(InstformerError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# -- names ------------------------------------------------------------------------------------------------------------


@BACKBONES
@pytest.mark.parametrize("classes", [80, 40, 1], ids=["coco", "youtube-vis", "agnostic"])
def test_detectron2_to_ours_to_transformers_to_ours(backbone: Any, classes: int, tmp_path: Path) -> None:
    net = foreign.proposals(backbone, classes)
    config, ours, layout = read_proposals(foreign.write_detectron2(net, tmp_path / "model_final.pkl"))
    assert (layout, config) == ("detectron2", net.config)
    again_net = ProposalNetwork(config)
    again_net.load_state_dict(ours, strict=False)
    assert same(again_net.state_dict(), net.state_dict())
    config, again, layout = read_proposals(foreign.write_transformers(again_net, tmp_path / "model.safetensors"))
    assert (layout, config) == ("transformers", net.config)
    assert same(again, dict(net.state_dict()))


@BACKBONES
def test_every_name_has_one_of_ours(backbone: Any) -> None:
    state = foreign.proposals(backbone).state_dict()
    for layout in (DETECTRON2, TRANSFORMERS):
        theirs = [name for key in state for name in layout.theirs(key)]
        assert len(theirs) == len(set(theirs))
        assert layout.recognised(theirs) == len(theirs)
        renamed = layout.to_ours(layout.from_ours(state))
        assert not renamed.unexpected
        assert not renamed.incomplete
        assert same(renamed.arrays, dict(state))


def test_old_names_of_detectron2(tmp_path: Path) -> None:
    net = foreign.proposals()
    old = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace(".query_feat.", ".static_query."): value
        for key, value in foreign.detectron2_state(net).items()
    }
    assert "sem_seg_head.mask_features.weight" in old
    assert "sem_seg_head.predictor.static_query.weight" in old
    torch.save({"model": old, "iteration": 7}, tmp_path / "model.pth")
    config, arrays, layout = read_proposals(tmp_path / "model.pth")
    assert (layout, config) == ("detectron2", net.config)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in arrays.items())


def test_names_of_transformers_in_memory() -> None:
    """Those that its version 5 gives to Swin, apart from the published files."""
    net = foreign.proposals(foreign.SWIN)
    new = {}
    for key, value in TRANSFORMERS.from_ours(net.state_dict()).items():
        key = key.replace(".encoder.encoder.", ".encoder.swin.encoder.")
        key = key.replace(".encoder.embeddings.", ".encoder.swin.embeddings.")
        key = key.replace(".self.relative_position_bias_table", ".relative_position_bias.relative_position_bias_table")
        for old, name in (("query", "q"), ("key", "k"), ("value", "v")):
            key = key.replace(f".attention.self.{old}.", f".attention.{name}_proj.")
        key = key.replace(".attention.output.dense.", ".attention.o_proj.")
        key = key.replace(".intermediate.dense.", ".mlp.fc1.").replace(".output.dense.", ".mlp.fc2.")
        new[key] = value
    assert same(TRANSFORMERS.to_ours(new).arrays, dict(net.state_dict()))


# -- the command line -------------------------------------------------------------------------------------------------


@BACKBONES
def test_both_layouts_build_the_same_checkpoint(
    backbone: Any, clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = foreign.proposals(backbone)
    sources = [
        foreign.write_detectron2(net, tmp_path / "model_final_123abc.pkl"),
        foreign.write_transformers(net, tmp_path / "model.safetensors"),
        foreign.write_transformers(net, tmp_path / "pytorch_model.bin"),
    ]
    clip = f"{foreign.ARCHITECTURE}:gelu:{clip_file}"
    answers = []
    for i, source in enumerate(sources):
        output = tmp_path / f"{i}.safetensors"
        arguments = ["weights", "build", "--proposals", str(source), "--clip", clip, "--output", str(output)]
        assert main([*arguments, "--proposals-licence", "CC-BY-NC-4.0"]) == 0
        built = capsys.readouterr().out
        assert main(["weights", "show", str(output)]) == 0
        assert capsys.readouterr().out == built
        for said in ("proposals: CC-BY-NC-4.0", "clip: not told", source.name, "SHA-256", "none: neutral", "untrained"):
            assert said in built
        model = checkpoint.load(output)
        assert same(dict(model.proposals.state_dict()), dict(net.state_dict())), "without loss"
        with torch.inference_mode():
            answers.append(model(tiny.pictures(1, (64, 96))))
    assert answers[0].tokens.std() > 0.01
    for answer in answers[1:]:
        assert torch.equal(answer.tokens, answers[0].tokens)
        assert torch.equal(answer.proposals.mask_logits, answers[0].proposals.mask_logits)
        assert torch.equal(answer.proposals.objectness, answers[0].proposals.objectness)


def build(proposals: Path, clip: str, output: Path, *more: str) -> int:
    return main(
        ["weights", "build", "--proposals", str(proposals), "--clip", clip, "--output", str(output), *map(str, more)]
    )


@pytest.fixture(scope="module")
def built(clip_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    source = foreign.write_detectron2(foreign.proposals(), folder / "model_final.pkl")
    assert build(source, f"{foreign.ARCHITECTURE}:quickgelu:{clip_file}", folder / "built.safetensors") == 0
    return folder / "built.safetensors"


def test_a_built_checkpoint_is_training_free(built: Path) -> None:
    model = checkpoint.load(built)
    config = model.config
    assert (config.instclip.shift, config.instclip.guidance) == (True, "designed")
    assert config.clip.quick_gelu
    assert config.clip.tokens is None
    assert config.negatives == COMMON
    start = model.instclip.visual.class_embedding + model.instclip.visual.positional_embedding[0]
    assert torch.equal(model.instclip.register_token, start)
    assert all(not block.query_b.any() and not block.value_b.any() for block in model.instclip.lora)
    images = tiny.pictures(1)
    full = torch.full((1, 7, tiny.SIZE[0] // 4, tiny.SIZE[1] // 4), 30.0)
    with torch.inference_mode():
        own = model.instclip.clip.encode_image((images - model.instclip.pixel_mean) / model.instclip.pixel_std)
        token = model.instclip.encode(images, full).instances[0]
    assert (token - own).abs().max() < 1e-5, "a full mask is CLIP itself"


def test_the_engine_takes_a_built_checkpoint(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = Engine.load(built, "cpu")
    encoded = engine.encode_vocabulary(["mug", "zebra"])
    assert encoded.unknown == (), "the whole token table is there"
    assert len(encoded.negatives) == len(COMMON) - 2, "all but cups and zebras"
    engine.use_vocabulary(encoded)
    frame = engine.step({"": np.zeros((48, 64, 3), np.uint8)})[""]
    assert frame.vocabulary.names == ("mug", "zebra")
    engine.close()


def test_trained_parts_are_taken(built: Path, clip_file: Path, tmp_path: Path) -> None:
    trained = checkpoint.load(built)
    tiny.perturb(trained.instclip.lora, 3)
    with torch.no_grad():
        trained.instclip.instance_tokens += torch.randn_like(trained.instclip.instance_tokens).half().float()
        trained.rollout.rnn.weight_hh_l0 += 0.5
    checkpoint.save(trained, tmp_path / "trained.safetensors", {}, lossless=True)
    source = foreign.write_detectron2(foreign.proposals(seed=5), tmp_path / "model_final.pkl")
    clip, path = f"{foreign.ARCHITECTURE}:quickgelu:{clip_file}", tmp_path / "trained.safetensors"
    assert build(source, clip, tmp_path / "m.safetensors", "--lora", str(path), "--tracker", str(path)) == 0
    model = checkpoint.load(tmp_path / "m.safetensors")
    assert torch.equal(model.instclip.lora[1].query_b, trained.instclip.lora[1].query_b)
    assert torch.equal(model.instclip.instance_tokens, trained.instclip.instance_tokens)
    assert torch.equal(model.rollout.rnn.weight_hh_l0, trained.rollout.rnn.weight_hh_l0)
    assert not torch.equal(model.proposals.mask_decoder.query_feat, trained.proposals.mask_decoder.query_feat)


def test_parts_of_another_network_are_refused(clip_file: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "tiny.safetensors"
    checkpoint.save(tiny.model(), other, {})
    source = foreign.write_detectron2(foreign.proposals(), tmp_path / "m.pkl")
    clip = f"{foreign.ARCHITECTURE}:gelu:{clip_file}"
    assert build(source, clip, tmp_path / "o.safetensors", "--lora", str(other)) == 2
    assert "has a wrong shape for instclip.instance_tokens (6, 32) instead of (7, 32)" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


# -- damaged files ----------------------------------------------------------------------------------------------------

QUERY = "sem_seg_head.predictor.query_feat.weight"
LEVELS = "sem_seg_head.pixel_decoder.transformer.level_embed"
SPLIT = "model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"


def less(state: dict[str, Tensor]) -> None:
    del state[LEVELS]


def sizeless(state: dict[str, Tensor]) -> None:
    del state[QUERY]


def more(state: dict[str, Tensor]) -> None:
    state["backdoor.weight"] = torch.zeros(1)


def renamed(state: dict[str, Tensor]) -> None:
    state["sem_seg_head.predictor.levels"] = state.pop(LEVELS)


def reshaped(state: dict[str, Tensor]) -> None:
    state[LEVELS] = state[LEVELS][1:].clone()


def spoilt(state: dict[str, Tensor]) -> None:
    state[LEVELS][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (less, f"(detectron2) lacks {LEVELS}:"),
        (sizeless, f"(detectron2) lacks {QUERY}:"),
        (more, "(detectron2) has the unexpected backdoor.weight:"),
        (renamed, f"lacks {LEVELS}; it has the unexpected sem_seg_head.predictor.levels:"),
        (reshaped, f"has a wrong shape for {LEVELS} (2, 32) instead of (3, 32):"),
        (spoilt, f"has values that are not finite in {LEVELS};"),
    ],
)
def test_damaged_arrays_are_named(damage: Callable[[dict[str, Tensor]], None], says: str, tmp_path: Path) -> None:
    state = foreign.detectron2_state(foreign.proposals())
    damage(state)
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}}))
    text = complaint(lambda: read_proposals(path))
    assert says in text
    assert str(path) in text


def test_a_missing_third_of_a_packed_array_is_named(tmp_path: Path) -> None:
    path = foreign.write_transformers(foreign.proposals(), tmp_path / "m.safetensors")
    state = load_file(path)
    del state[SPLIT]
    save_file(state, path)
    assert f"(transformers) lacks {SPLIT}:" in complaint(lambda: read_proposals(path))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("name", ["m.pkl", "m.safetensors", "m.bin"])
def test_truncated_files(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    write = foreign.write_detectron2 if path.suffix == ".pkl" else foreign.write_transformers
    content = write(foreign.proposals(), path).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    text = complaint(lambda: read_proposals(path))
    assert str(path) in text
    assert "fetch it again" in text


def test_a_files_name_does_not_matter_its_content_does(tmp_path: Path) -> None:
    net = foreign.proposals()
    foreign.write_detectron2(net, tmp_path / "a.pkl").rename(tmp_path / "a.safetensors")
    foreign.write_transformers(net, tmp_path / "b.safetensors").rename(tmp_path / "b.bin")
    assert read_proposals(tmp_path / "a.safetensors")[2] == "detectron2"
    assert read_proposals(tmp_path / "b.bin")[2] == "transformers"


def test_other_networks_and_no_networks(clip_file: Path, tmp_path: Path) -> None:
    assert "is no Mask2Former of detectron2 or transformers; it holds " in complaint(lambda: read_proposals(clip_file))
    (tmp_path / "text.safetensors").write_text("hello, I am no checkpoint")
    assert "no safetensors, PyTorch or pickle file" in complaint(lambda: read_proposals(tmp_path / "text.safetensors"))
    assert "does not exist" in complaint(lambda: read_proposals(tmp_path / "none.pkl"))
    (tmp_path / "empty.pkl").write_bytes(pickle.dumps({"model": {"note": "nothing here"}}))
    assert "holds no arrays" in complaint(lambda: read_proposals(tmp_path / "empty.pkl"))


# -- CLIP -------------------------------------------------------------------------------------------------------------


def test_the_activation_comes_from_the_registry(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.touch()
    for tag, quick in (
        ("openai", True),
        ("laion400m_e31", True),
        ("metaclip_400m", True),
        ("laion2b_s34b_b79k", False),
    ):
        found = find_clip(f"ViT-B-32:{tag}:{file}")
        assert (found.config.quick_gelu, found.config.architecture, found.file) == (quick, "ViT-B-32", file)
        assert found.config.model == {
            key: open_clip.get_model_config("ViT-B-32")[key] for key in ("embed_dim", "vision_cfg", "text_cfg")
        }
    assert find_clip(f"ViT-B/32:laion2b-s34b-b79K:{file}").tag == "laion2b_s34b_b79k"
    assert find_clip(f"ViT-B-32:quickgelu:{file}").config.quick_gelu
    assert not find_clip(f"ViT-B-32:gelu:{file}").config.quick_gelu
    assert find_clip(f"ViT-B-32-quickgelu:{file}").config.quick_gelu
    assert not find_clip(f"ViT-B-32-256:{file}").config.quick_gelu, "its one tag has GELU"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ViT-Z-99:openai", "architecture 'ViT-Z-99' is unknown to open_clip"),
        ("ViT-B-32:openay", "'openay' is neither a file nor a tag of ViT-B-32; its tags: openai, laion400m_e31"),
        ("ViT-B-32", "is neither a file nor a tag"),
        (
            "ViT-B-32:{file}",
            "come with GELU and with QuickGELU, and a file does not say which; write ViT-B-32:TAG",
        ),
        ("ViT-B-32:gelu", "which weights? write ViT-B-32:gelu:FILE"),
        ("ViT-B-16-SigLIP:webli:{file}", "text tower or tokenizer of another kind"),
        ("RN50:openai:{file}", "is no ViT with a class token"),
        ("ViT-B-32:openai:{file}x", "does not exist"),
        ("ViT-B-32:laion2b_s34b_b79k:{file}", "is truncated, or no safetensors"),
    ],
)
def test_what_clip_cannot_be(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.touch()
    assert says in complaint(lambda: find_clip(text.format(file=file)).arrays())


def test_a_registered_tag_without_its_file_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instformer_ros.weights.openclip.try_to_load_from_cache", lambda *_: None)
    text = complaint(lambda: find_clip("ViT-B-32:openai"))
    assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in text
    assert "write ViT-B-32:openai:FILE" in text


def test_the_hubs_cache_is_looked_into(clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instformer_ros.weights.openclip.try_to_load_from_cache", lambda *_: str(clip_file))
    assert find_clip("ViT-B-32:openai").file == clip_file


def test_clip_files_of_every_kind(clip_file: Path, tmp_path: Path) -> None:
    state = foreign.clip_state()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "training.pt")
    torch.save({**state, "input_resolution": torch.tensor(224)}, tmp_path / "plain.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for file in (clip_file, *tmp_path.glob("*.pt")):
        assert same(find_clip(f"{foreign.ARCHITECTURE}:gelu:{file}").arrays(), state), file


def test_damaged_clip_files_name_their_keys(clip_file: Path, tmp_path: Path) -> None:
    state = foreign.clip_state()
    state["visual.conv2"] = state.pop("visual.conv1.weight")
    state["positional_embedding"] = state["positional_embedding"][1:].clone()
    save_file(state, tmp_path / "c.safetensors")
    text = complaint(lambda: find_clip(f"{foreign.ARCHITECTURE}:gelu:{tmp_path / 'c.safetensors'}").arrays())
    assert (
        "lacks visual.conv1.weight; it has the unexpected visual.conv2; it has a wrong shape for positional_emb" in text
    )


def test_torchscript_is_a_program_and_not_run(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    text = complaint(lambda: read_arrays(tmp_path / "ViT-B-32.pt"))
    assert "is a TorchScript archive, which is a program: it is not run; take the same weights in safetensors" in text


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_half_precision_only_where_it_is_exact(tmp_path: Path) -> None:
    model = tiny.model()
    with torch.no_grad():
        model.proposals.mask_decoder.query_feat.copy_(model.proposals.mask_decoder.query_feat.half())
    checkpoint.save(model, tmp_path / "m.safetensors", {}, lossless=True)
    kept = load_file(tmp_path / "m.safetensors")
    assert kept["proposals.mask_decoder.query_feat"].dtype == torch.float16
    assert kept["proposals.mask_decoder.query_embed"].dtype == torch.float32
    assert same(dict(checkpoint.load(tmp_path / "m.safetensors").state_dict()), dict(model.state_dict()))


def test_sizes_of_the_embedded_swin() -> None:
    assert isinstance(foreign.proposals(foreign.SWIN).config.backbone, SwinConfig)
