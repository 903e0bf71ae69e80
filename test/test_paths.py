"""The package's files are found in each layout that it is installed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from instformer_ros import paths
from instformer_ros.structures import InstformerError

PLACES = {
    "pip install": ("site-packages/instformer_ros", "site-packages/instformer_ros/models"),
    "source tree": ("repo/instformer_ros", "repo/models"),
    "colcon build": (
        "install/pkg/lib/python3.12/site-packages/instformer_ros",
        "install/pkg/share/instformer_ros/models",
    ),
    "colcon build, Debian": (
        "install/pkg/local/lib/python3.12/dist-packages/instformer_ros",
        "install/pkg/share/instformer_ros/models",
    ),
}


def lay_out(monkeypatch: pytest.MonkeyPatch, package: Path, models: Path | None, *names: str) -> None:
    package.mkdir(parents=True)
    (package / "paths.py").touch()
    monkeypatch.setattr(paths, "__file__", str(package / "paths.py"))
    monkeypatch.setenv("XDG_DATA_HOME", str(package / "data"))
    if models is not None:
        models.mkdir(parents=True)
        for name in names:
            (models / f"{name}.safetensors").touch()


@pytest.mark.parametrize("layout", PLACES)
def test_models_are_found(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, models = (tmp_path / place for place in PLACES[layout])
    lay_out(monkeypatch, package, models, "small")
    assert paths.models_directory() == models
    assert paths.model_path("small") == models / "small.safetensors"


@pytest.mark.parametrize("layout", PLACES)
def test_message_definitions_are_found(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, models = (tmp_path / place for place in PLACES[layout])
    lay_out(monkeypatch, package, None)
    folder = models.with_name("definitions" if layout == "pip install" else "msg")
    folder.mkdir(parents=True)
    assert paths.message_definitions() == folder


def test_links_of_a_symlink_install_lead_to_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(monkeypatch, tmp_path / "repo" / "instformer_ros", tmp_path / "repo" / "models")
    installed = tmp_path / "install" / "lib" / "instformer_ros"
    installed.mkdir(parents=True)
    (installed / "paths.py").symlink_to(tmp_path / "repo" / "instformer_ros" / "paths.py")
    monkeypatch.setattr(paths, "__file__", str(installed / "paths.py"))
    assert paths.models_directory() == tmp_path / "repo" / "models"


def test_an_installed_package_prefers_its_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "instformer_ros"
    lay_out(monkeypatch, package, package / "models")
    (tmp_path / "site" / "models").mkdir()  # another package's
    assert paths.models_directory() == package / "models"


def test_missing_folder_is_one_line_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(monkeypatch, tmp_path / "instformer_ros", None)
    with pytest.raises(InstformerError, match="install the package again"):
        paths.models_directory()


@pytest.mark.parametrize(("names", "shown"), [((), "none"), (("b", "a"), "a, b")])
def test_unknown_model_names_those_that_exist(
    names: tuple[str, ...], shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(monkeypatch, tmp_path / "instformer_ros", tmp_path / "models", *names)
    with pytest.raises(InstformerError, match=f"'mug'.*there is {shown};") as raised:
        paths.model_path("mug")
    assert "\n" not in str(raised.value)


def test_a_home_is_found_in_a_path_and_an_unknown_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.find_model("~/mug.safetensors") == tmp_path / "mug.safetensors"
    assert paths.user_path("~nobody.at.all/mug") == Path("~nobody.at.all/mug")


def test_pulled_models_go_by_their_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(monkeypatch, tmp_path / "instformer_ros", tmp_path / "models", "toyvis")
    pulled = paths.pulled_models_directory()
    assert pulled == tmp_path / "instformer_ros" / "data" / "instformer_ros" / "models"
    pulled.mkdir(parents=True)
    for name in ("r50-vitb32", "toyvis"):
        (pulled / f"{name}.safetensors").touch()
    assert paths.model_path("r50-vitb32") == pulled / "r50-vitb32.safetensors"
    assert paths.model_path("toyvis") == tmp_path / "models" / "toyvis.safetensors", "the embedded one goes first"
