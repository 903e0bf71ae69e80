"""Public weights from their official homes, when somebody asks for them. Nothing else of the package ever downloads.

SHA-256 sums are compared with what a source states, if one does; otherwise with what was recorded at first use.
"""

from __future__ import annotations

import http.client
import os
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from instformer_ros.structures import InstformerError
from instformer_ros.weights.arrays import sha256
from instformer_ros.weights.build import Parts, build
from instformer_ros.weights.openclip import SAFETENSORS, hub_repository

RECORD = "SHA256SUMS"  # beside the files, as sha256sum writes and checks it
_ZOO = "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/instance"
_ZOO_LICENCE = "CC-BY-NC-4.0 (MODEL_ZOO.md of github.com/facebookresearch/Mask2Former)"
_HUB = "https://huggingface.co"
_BLOCK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Remote:
    """A file of somebody's."""

    url: str
    name: str  # of the local file
    licence: str
    sha256: str | None = None  # only where its authors state it


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint is made of."""

    proposals: Remote
    architecture: str  # of CLIP
    tag: str
    clip: Remote


_R50 = Remote(f"{_ZOO}/maskformer2_R50_bs16_50ep/model_final_3c8ec9.pkl", "mask2former_r50_coco.pkl", _ZOO_LICENCE)
_SWIN_T = Remote(
    f"{_ZOO}/maskformer2_swin_tiny_bs16_50ep/model_final_86143f.pkl", "mask2former_swint_coco.pkl", _ZOO_LICENCE
)
_RECIPES = {
    "r50-vitb32": (_R50, "ViT-B-32"),
    "r50-vitb16": (_R50, "ViT-B-16"),
    "swint-vitb32": (_SWIN_T, "ViT-B-32"),
}


def recipe(name: str) -> Recipe:
    """What a checkpoint that can be pulled is made of. Neither home states a SHA-256 that one could cite.

    Raises:
        InstformerError: there is none of that name; names those that there are.
    """
    if name not in _RECIPES:
        raise InstformerError(f"no public weights are known for '{name}'; pull one of {', '.join(_RECIPES)}")
    proposals, architecture = _RECIPES[name]
    return Recipe(proposals, architecture, "openai", _openai(architecture))


def _openai(architecture: str) -> Remote:
    """The safetensors that open_clip's registry names."""
    repository = hub_repository(architecture, "openai")
    return Remote(
        f"{_HUB}/{repository}/resolve/main/{SAFETENSORS}",
        f"{architecture}_openai.weights",
        "MIT (github.com/openai/CLIP)",
    )


def pull(name: str, folder: Path, made_of: Recipe) -> tuple[Path, dict[str, str]]:
    """Downloads what is not there yet and builds the checkpoint.

    Args:
        name: of the checkpoint, ``NAME.safetensors``.
        folder: where all files go.
        made_of: what to fetch.

    Returns:
        The checkpoint, and the SHA-256 of each file that it was made of, by name.

    Raises:
        InstformerError: a file could not be reached or is not what it was; nothing half-done is left.
    """
    files, sums = [], {}
    for remote in (made_of.proposals, made_of.clip):
        path = folder / remote.name
        if not path.is_file():
            try:
                download(remote.url, path)
            except InstformerError as error:
                raise InstformerError(f"{error}; {_by_hand(name, folder, made_of)}") from error
        sums[remote.name] = verify(path, remote.sha256)
        files.append(path)
    output = folder / f"{name}.safetensors"
    licences = {"proposals": made_of.proposals.licence, "clip": made_of.clip.licence}
    build(Parts(files[0], f"{made_of.architecture}:{made_of.tag}:{files[1]}", licences=licences), output)
    return output, sums


def download(url: str, path: Path) -> None:
    """Fetches a file whole or not at all, with a progress bar.

    Raises:
        InstformerError: there was no answer, or it ended too soon, or the file cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, part.open("wb") as file:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            with tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=path.name) as bar:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
                received = bar.n
        if total is not None and received != total:
            raise InstformerError(f"{url} ended after {received} of {total} bytes")
        part.replace(path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InstformerError(f"{url} could not be fetched ({error})") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def verify(path: Path, stated: str | None) -> str:
    """The file's SHA-256, compared with the stated one or, if none is, with the one recorded at first use.

    Raises:
        InstformerError: it is another file.
    """
    found, record = sha256(path), path.with_name(RECORD)
    recorded = _recorded(record).get(path.name)
    wanted = stated or recorded
    if wanted is not None and found != wanted:
        source = "its authors state" if stated else f"{record} recorded at first use"
        raise InstformerError(f"{path} has SHA-256 {found}, not {wanted}, which {source}; remove it and pull again")
    if recorded is None:
        with record.open("a", encoding="utf-8") as file:
            file.write(f"{found}  {path.name}\n")
    return found


def _recorded(record: Path) -> dict[str, str]:
    lines = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _by_hand(name: str, folder: Path, made_of: Recipe) -> str:
    """How to do without a network."""
    fetch = " and ".join(f"{remote.url} as {folder / remote.name}" for remote in (made_of.proposals, made_of.clip))
    return f"without internet here, bring {fetch} from elsewhere, then run 'instformer weights pull {name}' again"
