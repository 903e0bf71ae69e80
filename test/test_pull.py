"""Downloads, from a server in this process: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import foreign
import pytest

from instformer_ros.cli import main
from instformer_ros.structures import InstformerError
from instformer_ros.weights import checkpoint, pull
from instformer_ros.weights.openclip import hub_repository


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Short(BaseHTTPRequestHandler):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server; gives its address."""
    servers = []

    def start(handler: Callable[..., BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def home(tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources' folder; the command pulls "small" from it."""
    folder = tmp_path / "home"
    folder.mkdir()
    foreign.register_tiny(tmp_path / "open_clip")
    foreign.write_detectron2(foreign.proposals(), folder / "m2f.pkl")
    foreign.write_clip(folder / "clip.safetensors")
    url = serve(partial(Quiet, directory=str(folder)))
    small = pull.Recipe(
        pull.Remote(f"{url}/m2f.pkl", "m2f.pkl", "NC"),
        foreign.ARCHITECTURE,
        "quickgelu",
        pull.Remote(f"{url}/clip.safetensors", "clip.weights", "MIT"),
    )
    monkeypatch.setattr(pull, "recipe", lambda name: small)
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pull_fetches_builds_and_records(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    assert main(["weights", "pull", "small", "--folder", str(folder)]) == 0
    said = capsys.readouterr().out
    sums = {
        name: digest(home / source) for name, source in (("m2f.pkl", "m2f.pkl"), ("clip.weights", "clip.safetensors"))
    }
    for name, value in sums.items():
        assert f"{value}  {name}" in said
    assert "whose licences hold: NC; MIT" in said
    assert sorted(file.name for file in folder.iterdir()) == [
        "SHA256SUMS",
        "clip.weights",
        "m2f.pkl",
        "small.safetensors",
    ]
    assert (folder / "SHA256SUMS").read_text() == "".join(f"{v}  {k}\n" for k, v in sums.items())
    assert checkpoint.load(folder / "small.safetensors").config.clip.quick_gelu
    assert checkpoint.read_header(folder / "small.safetensors")["licences"] == {"proposals": "NC", "clip": "MIT"}


def test_what_is_there_is_not_fetched_again_but_checked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    arguments = ["weights", "pull", "small", "--folder", str(folder)]
    assert main(arguments) == 0
    (home / "m2f.pkl").unlink()
    assert main(arguments) == 0, "nothing was asked of the server"
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 2
    content = bytearray((folder / "m2f.pkl").read_bytes())
    content[-2000] ^= 1
    (folder / "m2f.pkl").write_bytes(content)
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'm2f.pkl'} has SHA-256 " in said
    assert "recorded at first use; remove it and pull again" in said


def test_a_stated_sum_is_kept_to(home: Path, tmp_path: Path) -> None:
    good = pull.recipe("small")
    stated = replace(good.clip, sha256=digest(home / "clip.safetensors"))
    pull.pull("small", tmp_path / "a", replace(good, clip=stated))
    wrong = replace(good.clip, sha256="0" * 64)
    with pytest.raises(InstformerError, match=r"not 0{64}, which its authors state"):
        pull.pull("small", tmp_path / "b", replace(good, clip=wrong))
    assert not (tmp_path / "b" / "small.safetensors").exists()
    assert "clip.weights" not in (tmp_path / "b" / "SHA256SUMS").read_text()


def test_files_brought_by_hand_need_no_network(home: Path, tmp_path: Path) -> None:
    folder, nowhere = tmp_path / "models", "http://127.0.0.1:9"
    folder.mkdir()
    good = pull.recipe("small")
    (folder / "m2f.pkl").write_bytes((home / "m2f.pkl").read_bytes())
    (folder / "clip.weights").write_bytes((home / "clip.safetensors").read_bytes())
    offline = replace(good, proposals=replace(good.proposals, url=nowhere), clip=replace(good.clip, url=nowhere))
    path, _ = pull.pull("small", folder, offline)
    assert path.is_file()


def test_offline_one_line_says_what_and_how_else(tmp_path: Path) -> None:
    nowhere = pull.Recipe(
        pull.Remote("http://127.0.0.1:9/m2f.pkl", "m2f.pkl", "NC"),
        "ViT-B-32",
        "openai",
        pull.Remote("http://127.0.0.1:9/clip.safetensors", "clip.weights", "MIT"),
    )
    with pytest.raises(InstformerError) as caught:
        pull.pull("small", tmp_path / "models", nowhere)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("http://127.0.0.1:9/m2f.pkl could not be fetched (")
    assert f"bring http://127.0.0.1:9/m2f.pkl as {tmp_path / 'models' / 'm2f.pkl'}" in text
    assert f"and http://127.0.0.1:9/clip.safetensors as {tmp_path / 'models' / 'clip.weights'}" in text
    assert "then run 'instformer weights pull small' again" in text
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("handler", "path", "says"),
    [(Short, "/x", "ended after 10 of 1000 bytes"), (Quiet, "/there is none", "could not be fetched")],
)
def test_a_broken_download_leaves_nothing(
    handler: type[BaseHTTPRequestHandler], path: str, says: str, serve: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(InstformerError, match=says):
        pull.download(serve(handler) + path.replace(" ", "%20"), tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_written(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InstformerError, match="could not be fetched"):
        pull.pull("small", tmp_path / "file" / "models", pull.recipe("small"))


def test_the_official_homes() -> None:
    assert hub_repository("ViT-B-32", "openai") == "timm/vit_base_patch32_clip_224.openai"
    r50 = pull.recipe("r50-vitb32")
    assert r50.clip.url == (
        "https://huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors"
    )
    assert r50.proposals.url.startswith("https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/instance/")
    assert (r50.proposals.sha256, r50.clip.sha256) == (None, None), "none is stated, none is invented"
    with pytest.raises(InstformerError, match="known for 'r101'; pull one of r50-vitb32, r50-vitb16, swint-vitb32"):
        pull.recipe("r101")
