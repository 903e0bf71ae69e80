"""The library and its command line: `pip install .`, on any machine, with or without ROS.

The ROS package (messages, nodes, launch files) is built by colcon from CMakeLists.txt, which does not use this file.
torch is a range on purpose: robots bring their own build of it. Exact versions for development: requirements.txt.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "instformer_ros"


def version() -> str:
    """The one in the package itself, read without importing it."""
    match = re.search(r'^__version__ = "([^"]+)"', (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.M)
    if match is None:
        raise RuntimeError(f"{PACKAGE}/__init__.py holds no __version__")
    return match.group(1)


def description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


class BuildWithData(build_py):
    """Puts models/ and msg/ inside the built package. An editable install finds them in the source tree: paths.py."""

    def run(self) -> None:
        super().run()
        for folder, name in (("models", "models"), ("msg", "definitions")):
            source = ROOT / folder
            if source.is_dir() and not getattr(self, "editable_mode", False):
                shutil.copytree(source, Path(self.build_lib) / PACKAGE / name, dirs_exist_ok=True)


setup(
    name=PACKAGE,
    version=version(),
    description="Open-vocabulary video instance segmentation for robots (InstFormer), as a ROS 2 node and a library",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "training/configs/*.toml"]},
    install_requires=[
        "numpy>=1.26",
        "scipy>=1.11",
        "opencv-python-headless>=4.8,<5",
        "pycocotools>=2.0.7",
        "torch>=2.6",
        "torchvision>=0.21",
        "open_clip_torch>=2.30",
        "safetensors>=0.4",
        "tqdm>=4.65",
        "tomli>=2; python_version < '3.11'",
    ],
    extras_require={
        "bags": ["mcap>=1.2", "rosbags>=0.11"],
        "evaluation": ["trackeval>=1.3"],
        "plots": ["matplotlib>=3.8"],
        "tensorboard": ["tensorboard>=2.15"],
        "trackers": ["trackers>=2.6"],
    },
    entry_points={"console_scripts": ["instformer = instformer_ros.cli:main"]},
    cmdclass={"build_py": BuildWithData},
    # Beside colcon's own folder in build/, so that neither takes the other's files for its own.
    options={"build": {"build_base": "build/python"}},
)
