"""docs/node.md lists every parameter that the node declares, with its default and when it may change."""

from __future__ import annotations

import re
from pathlib import Path

from instformer_ros.nodes.openvis_parameters import PARAMETERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "node.md"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" or isinstance(value, list) else str(value)


def test_every_parameter_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    declared = [(spec.name, _written(spec.default), spec.when.name.lower()) for spec in PARAMETERS]
    assert sorted(rows) == sorted(declared)
