"""CLIP weights for open_clip's architectures, from local files; its registry tells how a file must be read.

Some weights were trained with QuickGELU in place of GELU; nothing in the file says so, and a mismatch fails silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.pretrained import list_pretrained_tags_by_model
from torch import Tensor

from instformer_ros.model.clip import build_clip
from instformer_ros.model.config import ClipConfig
from instformer_ros.structures import InstformerError
from instformer_ros.weights.arrays import read_arrays
from instformer_ros.weights.layout import differences

SAFETENSORS = "open_clip_model.safetensors"  # as the hub's repositories of open_clip have it
_FILES = (SAFETENSORS, "open_clip_pytorch_model.bin")
_ACTIVATIONS = {"gelu": False, "quickgelu": True}  # in place of a tag, for weights of one's own
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers beside OpenAI's weights
_PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}  # CLIP's own text tower and tokenizer


@dataclass(frozen=True)
class ClipWeights:
    """Which CLIP, and where its weights lie."""

    architecture: str  # open_clip's name
    tag: str  # of the registry, or an activation
    file: Path
    config: ClipConfig

    def arrays(self) -> dict[str, Tensor]:
        """All arrays of both towers under open_clip's names.

        Raises:
            InstformerError: as :func:`read_arrays`, or keys are missing, unexpected or misshaped, which are named.
        """
        with torch.device("meta"):
            wanted = build_clip(self.config).state_dict()
        found = {key.removeprefix("module."): value for key, value in read_arrays(self.file).items()}
        found = {key: value for key, value in found.items() if key not in _NO_WEIGHTS}
        faults = differences(found, wanted)
        if faults:
            raise InstformerError(f"{self.file} {'; it '.join(faults)}: is it open_clip's {self.architecture}?")
        return found


def find_clip(text: str) -> ClipWeights:
    """``ARCHITECTURE:TAG``, ``ARCHITECTURE:TAG:FILE`` or ``ARCHITECTURE:FILE``.

    A tag alone means the file that the hub's cache on this machine holds. A file alone is taken if all registered
    weights of its architecture have the same activation; else say which tag it has, or ``gelu`` or ``quickgelu``.

    Raises:
        InstformerError: architecture or tag are unknown, the file is not there, or its activation cannot be told.
    """
    architecture, _, rest = text.partition(":")
    architecture = architecture.replace("/", "-")
    model = open_clip.get_model_config(architecture)
    if model is None:
        raise InstformerError(f"CLIP architecture '{architecture}' is unknown to open_clip; try e.g. ViT-B-32")
    if model.get("custom_text") or set(model["text_cfg"]) - _PLAIN_TEXT:
        raise InstformerError(f"CLIP '{architecture}' has a text tower or tokenizer of another kind; use e.g. ViT-B-32")
    tags = list_pretrained_tags_by_model(architecture)
    tag, _, name = rest.partition(":")
    tag = tag if tag in _ACTIVATIONS else tag.lower().replace("-", "_")
    if tag not in tags and tag not in _ACTIVATIONS:
        if not Path(rest).is_file():
            raise InstformerError(
                f"CLIP '{text}': '{rest}' is neither a file nor a tag of {architecture}; "
                f"its tags: {', '.join(tags) or 'none'}"
            )
        tag, name = _only_activation(architecture, model, tags), rest
    registered = open_clip.get_pretrained_cfg(architecture, tag) or {}
    if not name and tag in _ACTIVATIONS:
        raise InstformerError(f"CLIP '{text}': which weights? write {architecture}:{tag}:FILE")
    file = Path(name) if name else _cached(architecture, tag, registered)
    config = ClipConfig(
        architecture=architecture,
        model={key: model[key] for key in ("embed_dim", "vision_cfg", "text_cfg")},
        quick_gelu=_ACTIVATIONS.get(tag, bool(registered.get("quick_gelu", False))),
        **{key: tuple(registered[key]) for key in ("mean", "std") if registered.get(key)},
    )
    return ClipWeights(architecture, tag, file, config)


def hub_repository(architecture: str, tag: str) -> str:
    """The hub's repository of registered weights, such as ``timm/vit_base_patch32_clip_224.openai``; "" if none."""
    return str((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("hf_hub", "")).rstrip("/")


def _only_activation(architecture: str, model: dict[str, Any], tags: list[str]) -> str:
    """The activation that all registered weights of an architecture share."""
    if model.get("quick_gelu"):
        return "quickgelu"
    kinds = {bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)) for tag in tags}
    if len(kinds) > 1:
        raise InstformerError(
            f"CLIP weights of {architecture} come with GELU and with QuickGELU, and a file does not say which; write "
            f"{architecture}:TAG:FILE, with gelu or quickgelu for TAG if they are your own; tags: {', '.join(tags)}"
        )
    return "quickgelu" if kinds == {True} else "gelu"


def _cached(architecture: str, tag: str, registered: dict[str, Any]) -> Path:
    """The registered file, if the hub's cache on this machine holds it."""
    repository = str(registered.get("hf_hub", "")).rstrip("/")
    for name in _FILES if repository.count("/") == 1 else ():
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    where = f"https://huggingface.co/{repository}" if repository else registered.get("url", "its authors")
    raise InstformerError(
        f"CLIP {architecture}:{tag} is not on this machine; bring its safetensors from {where} "
        f"and write {architecture}:{tag}:FILE"
    )
