"""Where the package's own files lie: in a source tree, a pip install or a colcon install. No ROS needed."""

from __future__ import annotations

import os
from pathlib import Path

from instformer_ros.structures import InstformerError

_PACKAGE = "instformer_ros"


def models_directory() -> Path:
    """The folder of the embedded checkpoints. Raises InstformerError if there is none."""
    return _folder("models", "models")


def message_definitions() -> Path:
    """The folder of the .msg files. Raises InstformerError if there is none.

    A pip install has it by another name, because ``instformer_ros/msg`` is where ROS puts its Python messages.
    """
    return _folder("msg", "definitions")


def _folder(name: str, packaged: str) -> Path:
    """Looks inside the package (pip install, there called ``packaged``), beside it (source tree, editable install,
    ``colcon build --symlink-install``) and in the share folder above it (``colcon build``), in this order.
    """
    here = Path(__file__).parent
    real = Path(__file__).resolve().parent  # through the links of --symlink-install
    shares = (parent / "share" / _PACKAGE / name for parent in here.parents)
    for folder in (here / packaged, real.parent / name, *shares):
        if folder.is_dir():
            return folder
    raise InstformerError(f"the folder {name}/ of {_PACKAGE} is missing: install the package again from its source")


def model_path(name: str) -> Path:
    """The file of a checkpoint by its name: an embedded one, such as ``toyvis``, or one that was pulled.

    Raises:
        InstformerError: there is no checkpoint of that name; names those that there are.
    """
    folders = (models_directory(), pulled_models_directory())
    for folder in folders:
        if (path := folder / f"{name}.safetensors").is_file():
            return path
    known = ", ".join(sorted(file.stem for folder in folders for file in folder.glob("*.safetensors"))) or "none"
    raise InstformerError(
        f"no model is called {name!r}: there is {known}; give a checkpoint's path, or see 'instformer weights pull'"
    )


def find_model(model: str | Path) -> Path:
    """The file of a checkpoint by its name or its path; what has a slash or ends in .safetensors is a path.

    Raises:
        InstformerError: there is no checkpoint of that name.
    """
    is_name = isinstance(model, str) and "/" not in model and not model.endswith(".safetensors")
    return model_path(str(model)) if is_name else user_path(model)


def user_path(text: str | Path) -> Path:
    """A path with its ``~`` replaced, as no shell does within quotes or for ROS parameters."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of somebody unknown: then it is the file's name
        return Path(text)


def pulled_models_directory() -> Path:
    """Where ``instformer weights pull`` leaves checkpoints: ``$XDG_DATA_HOME``, by default ``~/.local/share``."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / _PACKAGE / "models"
