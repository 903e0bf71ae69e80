"""Checkpoints: what goes in comes out, and whatever is wrong with a file is said in one line that names it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from instformer_ros.model.instformer import InstFormer
from instformer_ros.structures import InstformerError
from instformer_ros.weights import checkpoint

LICENCES = {"proposals": "Apache-2.0", "clip": "MIT"}
KEY = "rollout.rnn.weight_ih_l0"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> InstFormer:
    return tiny.model()


@pytest.fixture(scope="module")
def good(network: InstFormer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "deep" / "tiny.safetensors"
    checkpoint.save(network, path, LICENCES, {"seed": "3"})
    return path


def contents(path: Path) -> tuple[State, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118  (no mapping)


def complaint(path: Path) -> str:
    """The error of a file that cannot be loaded."""
    with pytest.raises(InstformerError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_goes_in_comes_out(network: InstFormer, good: Path) -> None:
    loaded = checkpoint.load(good)
    assert loaded.config == network.config
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    wanted, state = network.state_dict(), loaded.state_dict()
    assert list(state) == list(wanted)
    for key, value in wanted.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value.half().float() if value.is_floating_point() else value), key
    assert [f.name for f in good.parent.iterdir()] == ["tiny.safetensors"], "nothing half-written is left"
    with torch.inference_mode():
        first, second = (net(tiny.pictures()) for net in (network, loaded))
    assert (first.tokens - second.tokens).abs().max() < 0.05, "half precision is close"


def test_the_header_tells_config_licences_and_notes(network: InstFormer, good: Path) -> None:
    header = checkpoint.read_header(good)
    assert header["licences"] == LICENCES
    assert header["notes"] == {"seed": "3"}
    assert header["config"] == json.loads(json.dumps(network.config.to_dict()))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_others_may_read_it_as_the_umask_says(network: InstFormer, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        checkpoint.save(network, tmp_path / "model.safetensors", LICENCES)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_saving_again_replaces_the_file(network: InstFormer, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"what was here before")
    checkpoint.save(network, path, LICENCES)
    assert checkpoint.read_header(path)["notes"] == {}


@pytest.mark.parametrize("changes", [{"lora_rank": 0}, {"guidance": "binary", "register_visible": True}])
def test_other_configurations_come_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    net = tiny.model(**changes)
    net = InstFormer(replace(net.config, rollout=replace(net.config.rollout, kind="none")))
    checkpoint.save(net, tmp_path / "m.safetensors", LICENCES)
    assert checkpoint.load(tmp_path / "m.safetensors").config == net.config


# -- files that are none of ours --------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        assert complaint(path) == (
            f"checkpoint {path} does not exist; give 'toyvis' or the path of a .safetensors file"
        )


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 100])
def test_a_foreign_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(content)
    text = complaint(path)
    assert f"checkpoint {path} is truncated or no safetensors file" in text
    assert "copy or build it again" in text


@pytest.mark.parametrize("share", [0.0005, 0.1, 0.5, 0.9999])
def test_a_truncated_file(good: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    data = good.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert f"checkpoint {path} is truncated" in complaint(path)


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    """safetensors itself would parse 100 MB, into many times as much."""
    path = tmp_path / "long.safetensors"
    header = b'{"__metadata__":{"format":"' + b" " * (17 << 20) + b'"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert f"its header has {len(header)} bytes" in complaint(path)


def test_safetensors_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert "has no format of ours" in complaint(path)
    save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    text = complaint(path)
    assert "has format 'pt', not 'instformer_ros/1'" in text
    assert str(path) in text


# -- damaged headers --------------------------------------------------------------------------------------------------


def drop_config(header: dict[str, str]) -> None:
    del header["config"]


def no_json(header: dict[str, str]) -> None:
    header["licences"] = "{"


def no_dictionary(header: dict[str, str]) -> None:
    header["config"] = "[1, 2]"


def nested(header: dict[str, str]) -> None:
    header["config"] = "[" * 100_000


def changed(**values: Any) -> Callable[[dict[str, str]], None]:
    """Sets entries of the config; ``a__b`` is entry b of part a."""

    def change(header: dict[str, str]) -> None:
        config = json.loads(header["config"])
        for key, value in values.items():
            *parts, last = key.split("__")
            target = config
            for part in parts:
                target = target[part]
            target[last] = value
        header["config"] = json.dumps(config)

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop_config, "its header is damaged ('config')"),
        (no_json, "its header is damaged"),
        (no_dictionary, "its config is no dictionary"),
        (changed(colour="red"), "colour"),
        (changed(proposals=None), "model config"),
        (changed(instclip__guidance="magic"), "guidance 'magic'"),
        (changed(rollout__kind="lstm"), "rollout 'lstm'"),
        (changed(clip__architecture="nonsense", clip__model=None), "architecture 'nonsense' is unknown"),
        (changed(proposals__width=33), "no network has its config"),
        (changed(proposals__width="wide"), "no network has its config"),
        (changed(proposals__queries=-1), "no network has its config"),
        (changed(proposals__width=2**16), "has a wrong shape for"),  # terabytes, were it built
        (changed(proposals__width=2**40), "width is 1099511627776 in its config; at most 131072"),
        (changed(proposals__decoder_layers=10**6), "decoder_layers is 1000000 in its config; at most 256"),
        (changed(proposals__backbone__depths=[1, 1, 1, 10**9]), "depths is 1000000000"),
        (changed(clip__model="ViT-B-32"), "no dictionary; give an open_clip model config"),
        (changed(clip__model__text_cfg=3), "give an open_clip model config"),
        (changed(clip__model__text_cfg__hf_model_name="roberta-base"), "names hf_model_name"),  # is never fetched
        (changed(clip__model__vision_cfg__timm_model_name="resnet50"), "names timm_model_name"),
        (nested, "its header is damaged (maximum recursion depth"),
    ],
)
def test_a_damaged_header(good: Path, tmp_path: Path, damage: Callable[[dict[str, str]], None], says: str) -> None:
    tensors, header = contents(good)
    damage(header)
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path, header)
    assert says in complaint(path)


# -- damaged arrays ---------------------------------------------------------------------------------------------------


def lack(state: State) -> None:
    del state[KEY]


def add(state: State) -> None:
    state["backdoor.weight"] = torch.zeros(1)


def rename(state: State) -> None:
    state["rollout.gru.weight"] = state.pop(KEY)


def reshape(state: State) -> None:
    state[KEY] = state[KEY][:, 1:].contiguous()


def spoil(value: float) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[KEY][3, 5] = value

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lack, f"lacks {KEY}; copy or build it again"),
        (add, "has the unexpected backdoor.weight; copy or build it again"),
        (rename, f"lacks {KEY}; copy or build it again"),
        (reshape, f"has a wrong shape for {KEY}; copy or build it again"),
        (spoil(float("nan")), f"has values that are not finite in {KEY}; copy or build it again"),
        (spoil(float("inf")), f"has values that are not finite in {KEY}; copy or build it again"),
    ],
)
def test_damaged_arrays_are_named(good: Path, tmp_path: Path, damage: Callable[[State], None], says: str) -> None:
    tensors, header = contents(good)
    damage(tensors)
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path, header)
    assert complaint(path) == f"checkpoint {path} {says}"


def test_only_some_of_many_missing_arrays_are_named(good: Path, tmp_path: Path) -> None:
    tensors, header = contents(good)
    path = tmp_path / "half.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.startswith("instclip.lora")}, path, header)
    assert complaint(path).endswith("and 9 more; copy or build it again")
