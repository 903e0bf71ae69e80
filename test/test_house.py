"""The shape of the house: who may import whom, and how long a file may be. Read from the sources alone."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "instformer_ros"
ROS = ("rclpy", "rosidl", "ament_", "launch", "cv_bridge", "message_filters", "tf2_", "diagnostic_updater")
MESSAGES = ("_msgs", "_interfaces")  # ends of the names of message packages
LONGEST = 410  # lines
TRANSLATION = "instformer_ros.speed.stages", "instformer_ros.ros.messages"
"""The benchmark's last stage is filling the message: it goes to ``ros/`` for that where there is a ROS."""

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str, deep: bool = True) -> set[str]:
    """Names that a module imports, dotted; ``deep``: also those within functions, which run later or never."""
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in SOURCES else node.module)
        for child in ast.iter_child_nodes(node):
            if deep or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(child)

    visit(tree)
    return found


def is_ros(name: str) -> bool:
    first = name.split(".")[0]
    return (
        first.startswith(ROS)
        or first.endswith(MESSAGES)
        or name.startswith(("instformer_ros.msg", "instformer_ros.srv"))
    )


def test_the_package_is_seen() -> None:
    assert len(SOURCES) > 100
    assert "instformer_ros.model.config" in imports("instformer_ros.engine")
    assert is_ros("sensor_msgs.msg") and is_ros("rclpy.node") and not is_ros("rosbags.rosbag2")


@pytest.mark.parametrize(
    "module", [m for m in SOURCES if not m.startswith(("instformer_ros.ros", "instformer_ros.nodes"))]
)
def test_ros_stands_only_at_the_door(module: str) -> None:
    """Only ``ros/`` and ``nodes/`` import ROS, or are imported by each other."""
    for name in imports(module):
        assert not is_ros(name), f"{module} imports {name}"
        if name.startswith(("instformer_ros.ros", "instformer_ros.nodes")):
            assert (module, name) == TRANSLATION, f"{module} imports {name}"


def test_arrows_run_one_way() -> None:
    """model → structures; tracking → model; neither knows files, datasets, the engine, or who uses them."""
    below = {
        "instformer_ros.structures": (),
        "instformer_ros.model": ("instformer_ros.structures", "instformer_ros.model"),
        "instformer_ros.tracking": ("instformer_ros.structures", "instformer_ros.model", "instformer_ros.tracking"),
        "instformer_ros.ros": tuple(
            f"instformer_ros.{part}" for part in ("ros", "msg", "structures", "pixels", "masks", "draw", "surfaces")
        ),
    }
    for upper, allowed in below.items():
        for module in SOURCES:
            if module == upper or module.startswith(f"{upper}."):
                for name in imports(module):
                    if name.startswith("instformer_ros."):
                        assert name.startswith(allowed), f"{module} imports {name}"


def test_no_import_goes_round() -> None:
    """Also none within functions: those hide cycles rather than avoid them."""
    graph = {module: {name for name in imports(module) if name in SOURCES and name != module} for module in SOURCES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circular import: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("folder", ["instformer_ros", "scripts", "benchmarks", "launch"])
def test_files_are_short(folder: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long
