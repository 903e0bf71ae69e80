"""The folder of a training: it belongs to one plan, and keeps what is dear to make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instformer_ros.structures import InstformerError
from instformer_ros.training.team import Team


def claim(folder: Path, plan: Mapping[str, Any], team: Team) -> None:
    """Notes what is being trained in ``folder``, or checks that it is the same.

    Args:
        plan: all that the result depends on, fit for JSON.

    Raises:
        InstformerError: the folder holds the progress of another plan, which is told apart by its first difference, or
            cannot be used.
    """
    found = kept(folder / "plan.json", lambda: plan, team)
    wanted = json.loads(json.dumps(plan))
    if not isinstance(found, dict) or found != wanted:
        known = found if isinstance(found, dict) else {}
        key = next((k for k in {**wanted, **known} if known.get(k) != wanted.get(k)), "plan")
        raise InstformerError(
            f"{folder} holds the progress of another plan ({key}: {known.get(key)}, now {wanted.get(key)}); "
            "train into another folder"
        )


def kept(file: Path, make: Callable[[], Any], team: Team) -> Any:
    """The JSON of ``file``, made at the first call by the first process.

    Raises:
        InstformerError: the file cannot be read or written.
    """
    try:
        if team.leads and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(make(), indent=2) + "\n")
            partial.replace(file)
        team.wait()
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InstformerError(f"{file}: {error}; train into another folder") from error
