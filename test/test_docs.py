"""What the documentation says is so: its snippets run, its pages and the security policy name what the code has."""

from __future__ import annotations

import re
import shutil
import subprocess
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instformer_ros import masks

ROOT = Path(__file__).resolve().parents[1]
NODES = ROOT / "instformer_ros" / "nodes"


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def snippet(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", read("docs/messages.md"), re.S)
    return str(text)


def shapes() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    ring = np.zeros((37, 53), np.bool_)
    ring[5:30, 8:40] = True
    ring[12:20, 15:30] = False
    return [ring, ~ring, np.zeros((4, 6), np.bool_), np.ones((3, 2), np.bool_), rng.random((20, 31)) < 0.5]


def test_the_python_snippet_decodes_masks(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)
    for shape in shapes():
        counts = masks.encode(shape)["counts"]
        np.testing.assert_array_equal(names["decode_mask"](*shape.shape, list(counts)), shape)
    instance = types.SimpleNamespace(mask_encoding="coco_rle", mask=counts, class_name="mug", track_id=7)
    names["on_instances"](types.SimpleNamespace(height=20, width=31, instances=[instance]))
    assert capsys.readouterr().out == f"mug #7: {shape.sum()} pixels\n"


def test_the_cpp_snippet_decodes_masks(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    program = snippet("cpp") + (
        "#include <cstdio>\n#include <cstdlib>\n#include <string>\n"
        "int main(int, char ** a) {\n  const std::string text = a[3];\n  try {\n"
        "    const auto mask = decode_mask(std::atoi(a[1]), std::atoi(a[2]), {text.begin(), text.end()});\n"
        "    for (const auto pixel : mask) std::putchar('0' + pixel);\n"
        '  } catch (const std::runtime_error & error) { std::printf("%s", error.what()); }\n}\n'
    )
    (tmp_path / "decode.cpp").write_text(program)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run([compiler, *flags, tmp_path / "decode.cpp", "-o", tmp_path / "decode"], check=True)

    def decode(height: int, width: int, counts: str) -> str:
        command = [str(tmp_path / "decode"), str(height), str(width), counts]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for shape in shapes():
        expected = "".join("01"[pixel] for pixel in shape.ravel().tolist())
        assert decode(*shape.shape, masks.encode(shape)["counts"].decode()) == expected
    for counts in ("", "o", "0", "ZZZZ", "oooooooooo0", "\t"):
        assert decode(5, 5, counts) == "damaged mask"


def outputs() -> set[str]:
    """Topics of the node's outputs, by the one line with which each makes itself."""
    found = re.findall(r'super\(\).__init__\(node, camera, "(\w+)"', (NODES / "outputs.py").read_text())
    assert len(found) >= 8
    return {f"~/{name}" for name in found}


def private_names() -> set[str]:
    """Everything else that the node names below its own name."""
    return {name for file in NODES.glob("*.py") for name in re.findall(r'"(~/[a-z_]+)"', file.read_text())}


def test_every_topic_and_service_is_on_the_page_of_the_node_and_in_the_policy() -> None:
    names = outputs() | private_names()
    page = read("docs/node.md")
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []
    policy = ElementTree.fromstring(read("config/sros2/policy.xml"))
    allowed = {element.text for element in policy.iter() if element.tag in ("topic", "service")}
    assert sorted(names - allowed) == []


def test_relative_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
