"""What several files say of one thing agrees; and a sourced ROS is told from our own environment."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import instformer_ros
from instformer_ros.structures import TrackState

ROOT = Path(__file__).resolve().parent.parent


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def locked(path: str) -> dict[str, str]:
    """Name to version; asserts that every line is an exact pin."""
    pins = {}
    for line in read(path).splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==" and not specifier.version.endswith("*"), line
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice"
            pins[name] = specifier.version
    return pins


def install_requires() -> list[Requirement]:
    block = re.search(r"install_requires=\[(.*?)\]", read("setup.py"), re.S)
    assert block is not None
    return [Requirement(text) for text in re.findall(r'"([^"]+)"', block.group(1))]


def test_the_version_is_the_same_everywhere() -> None:
    assert ElementTree.fromstring(read("package.xml")).findtext("version") == instformer_ros.__version__
    assert f"## {instformer_ros.__version__}" in read("CHANGELOG.md")


def test_the_lock_suits_what_setup_py_asks_for() -> None:
    pins = locked("requirements.txt")
    asked = install_requires()
    assert len(asked) >= 9
    for requirement in asked:
        if requirement.marker is not None and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue  # for a Python that the lock is not made for
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_two_locks_do_not_overlap() -> None:
    assert not locked("requirements.txt").keys() & locked("requirements-ros.txt").keys()


def test_robots_bring_their_own_torch() -> None:
    keys = {element.text for element in ElementTree.fromstring(read("package.xml")) if element.tag.endswith("depend")}
    assert not [key for key in keys if key and ("torch" in key or "open_clip" in key or "open-clip" in key)]
    # Looked up in rosdistro's rosdep/python.yaml: a key that is not there ends `rosdep install` at once.
    known = {f"python3-{name}" for name in ("hypothesis", "numpy", "opencv", "pytest", "scipy", "tqdm")}
    assert {key for key in keys if key and key.startswith("python")} <= known
    (torch,) = [requirement for requirement in install_requires() if requirement.name == "torch"]
    assert torch.specifier.contains("2.6.0") and torch.specifier.contains("3.0.0")


def test_track_states_equal_the_message_constants() -> None:
    constants = dict(re.findall(r"^uint8 STATE_(\w+)=(\d+)", read("msg/Instance.msg"), re.M))
    assert constants.pop("UNKNOWN") == "0"
    assert {name: int(value) for name, value in constants.items()} == {state.name: state.value for state in TrackState}


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.sh")))
def test_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True)


@pytest.mark.parametrize(
    ("sourced", "distribution", "mode", "venv"),
    [
        ("", "", "wheels", ".venv"),
        ("other", "jazzy", "jazzy", ".venv-jazzy"),
        ("other", "", "ros", ".venv-ros"),
        ("venv", "", "wheels", ".venv"),  # this package's own environment is no ROS of the machine
        ("without rclpy", "jazzy", "wheels", ".venv"),
    ],
)
def test_a_sourced_ros_is_told_from_our_own(
    sourced: str, distribution: str, mode: str, venv: str, tmp_path: Path
) -> None:
    for prefix in ("other", "venv"):
        (tmp_path / prefix / "share" / "rclpy").mkdir(parents=True)
    (tmp_path / "without rclpy").mkdir()
    environment = {"PATH": os.environ["PATH"], "VIRTUAL_ENV": str(tmp_path / "venv")}
    if sourced:
        environment["AMENT_PREFIX_PATH"] = f"{ROOT}/install/instformer_ros:{tmp_path / sourced}"
    if distribution:
        environment["ROS_DISTRO"] = distribution
    command = f'set -euo pipefail; . "{ROOT}/scripts/common.sh"; echo "$mode $VENV"'
    answer = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == f"{mode} {ROOT / venv}"


def test_the_transport_profile_announces_often() -> None:
    """A camera that starts again may have to wait for the node's next announcement: 3 s by default."""
    space = "{http://www.eprosima.com}"
    root = ElementTree.parse(ROOT / "config" / "fastdds.xml").getroot()
    (period,) = root.iter(f"{space}leaseAnnouncement")
    seconds, fraction = (int(period.findtext(f"{space}{name}", "")) for name in ("sec", "nanosec"))
    assert 0.1 <= seconds + fraction * 1e-9 <= 1.0


def test_the_hashes_are_of_the_pinned_versions() -> None:
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", read("requirements-hashes.txt"), flags=re.MULTILINE).strip())
    found = {}
    for block in blocks:
        pin, *sums = (part.strip() for part in block.replace("\\\n", "\n").splitlines())
        requirement = Requirement(pin)
        assert sums and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in sums), pin
        found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    assert found == {**locked("requirements.txt"), **locked("requirements-ros.txt")}


def test_an_audit_that_looked_up_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from audit import summary

    good = {"name": "a", "version": "1", "vulns": []}
    bad = {**good, "name": "b", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    for nothing in (None, {"dependencies": [skipped]}):
        text, code = summary(nothing)
        assert code == 2 and "nothing was audited" in text and "\n" not in text
    assert summary({"dependencies": [good]}) == ("audit: 1 of 1 packages looked up, 0 with known vulnerabilities", 0)
    text, code = summary({"dependencies": [good, skipped, bad]})
    assert code == 1 and "b 1: PYSEC-1, CVE-1; mended in 2" in text and "not looked up: c" in text
    assert summary({"dependencies": [good, skipped]})[1] == 2
