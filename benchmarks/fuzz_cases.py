"""What :mod:`fuzz` tries. A kind is a function that gets a scratch folder and returns a case: chance in, a try made.

A case raises InstformerError for a refusal and AssertionError for a wrong answer; whatever else it raises is a finding.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from instformer_ros import masks
from instformer_ros.data.sources import open_source
from instformer_ros.model.vocabulary import MAX_LENGTH, MAX_WORDS, parse_vocabulary, validate_names
from instformer_ros.pixels import ENCODINGS, LARGEST_SIDE, Pixels, decompress, to_rgb
from instformer_ros.settings import Settings

Case = Callable[[random.Random], object]
_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 100, LARGEST_SIDE, LARGEST_SIDE + 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_TEXT = (
    "",
    " ",
    "\0",
    "\n",
    "a\nb",
    "\ud800",
    "😀",
    "İ",
    "x" * 300,
    "%s{}",
    "../../etc/passwd",
    "\x1b[2J",
    "ß" * 200,
)
_ODD_JSON: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    1e308,
    float("nan"),
    2**70,
    -(2**40),
    0.5,
    "",
    "x",
    "\n",
    [],
    {},
    [[]],
    {"a": []},
    "0" * 50,
)


# --- Chance ----------------------------------------------------------------------------------------------------------


def text(rng: random.Random, longest: int = 40) -> str:
    """Any text, control characters and halves of surrogate pairs among them."""
    if rng.random() < 0.4:
        return rng.choice(_ODD_TEXT)
    ranges = ((32, 126), (0, 31), (128, 0x2FFF), (0xD800, 0xDFFF), (0x10000, 0x10FFFF))
    weights = (12, 1, 2, 1, 1)
    return "".join(chr(rng.randint(*rng.choices(ranges, weights)[0])) for _ in range(rng.randrange(longest)))


def damage(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, bytes lost, doubled, zeroed or replaced, the end cut off: one to four of these."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64, 1024))
        match rng.randrange(6):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + data[at + length :]
            case 2:
                data = data[:at] + data[at : at + length] * 2 + data[at + length :]
            case 3:
                data = data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]
            case 4:
                data = (
                    data[:at] + rng.choice((b"\xff" * 8, b"\x7f" + bytes(7), struct.pack("<Q", 2**62))) + data[at + 8 :]
                )
            case _ if data:
                flipped = bytearray(data)
                for _ in range(rng.randint(1, 16)):
                    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                data = bytes(flipped)
    return data


def tamper(rng: random.Random, tree: Any) -> Any:
    """A JSON tree with one to three of its values replaced, its keys dropped or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        node = tree
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            child = node[key]
            if isinstance(child, dict | list) and child and rng.random() < 0.8:
                node = child
                continue
            match rng.randrange(4):
                case 0:
                    del node[key]
                case 1 if isinstance(node, dict):
                    node[text(rng, 8)] = node.pop(key)
                case 2 if isinstance(child, int | float):
                    node[key] = rng.choice((child + 1, -child, child * 1000, 2**40, float(child)))
                case _:
                    node[key] = copy.deepcopy(rng.choice(_ODD_JSON))
            break
    return tree


# --- Messages --------------------------------------------------------------------------------------------------------


def check_picture(picture: Pixels, height: int | None = None, width: int | None = None) -> None:
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.flags.c_contiguous
    assert height is None or picture.shape[:2] == (height, width), (picture.shape, height, width)


def raw_fields(rng: random.Random) -> tuple[str, int, int, int, int, bytes]:
    """Encoding, height, width, step, is_bigendian and data of a sensor_msgs/Image, half of them nearly right."""
    encoding = rng.choice((*ENCODINGS, *ENCODINGS, "RGB8", "8UC3", "32FC1", "16UC1", "jpeg", text(rng)))
    if rng.random() < 0.5:
        height, width = rng.randint(1, 40), rng.randint(1, 40)
        size = 3 * height * width * rng.choice((1, 2, 4)) + rng.choice((-1, 0, 0, 1, 100))
        step = width * rng.choice((1, 1, 2, 2, 3, 3, 4, 6, 8)) + rng.choice((-1, 0, 0, 0, 1, 13))
    else:
        height, width, step = (rng.choice(_NUMBERS) for _ in range(3))
        size = rng.choice((0, 1, 100, 4096, 100_000))
    return encoding, height, width, max(0, step), rng.choice((0, 0, 1, 255)), rng.randbytes(max(0, size))


def raw(folder: Path) -> Case:
    """What :func:`raw_fields` makes, to RGB."""

    def case(rng: random.Random) -> None:
        encoding, height, width, step, big, content = raw_fields(rng)
        data: Any = np.frombuffer(content, np.uint8) if rng.random() < 0.3 else content
        check_picture(to_rgb(encoding, height, width, step, big, data), height, width)

    return case


def packed_images() -> list[bytes]:
    """Good JPEG, PNG, WebP, BMP and TIFF files, in colour and grey."""
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    extensions = (".jpg", ".png", ".webp", ".bmp", ".tiff")
    return [cv2.imencode(e, i)[1].tobytes() for e in extensions for i in (image, image[..., 0])]


def packed_fields(rng: random.Random, good: list[bytes]) -> tuple[str, bytes]:
    """Format and data of a sensor_msgs/CompressedImage: damaged files under odd formats."""
    formats = ("jpeg", "png", "bgr8; jpeg compressed bgr8", "rgb8; png compressed rgb8")
    data = rng.choice(good)
    odd = rng.choice((*formats, "bayer_rggb8; jpeg compressed ", text(rng)))
    return odd, damage(rng, data) if rng.random() < 0.9 else data


def compressed(folder: Path) -> Case:
    """What :func:`packed_fields` makes, to RGB."""
    good = packed_images()

    def case(rng: random.Random) -> None:
        check_picture(decompress(*packed_fields(rng, good)))

    return case


def vocabulary(folder: Path) -> Case:
    """Words of any letters, any number and any length."""

    def case(rng: random.Random) -> None:
        many = rng.choice((1, 3, 10, MAX_WORDS + 1) if rng.random() < 0.02 else (1, 3, 10))
        words: list[Any] = [text(rng, 20) for _ in range(many)]
        if rng.random() < 0.05:
            words.append(rng.choice((None, 3, b"mug", ["mug"], "y" * 10**6)))
        names = validate_names(words if rng.random() < 0.8 else parse_vocabulary(",".join(map(str, words))))
        assert len(names) <= MAX_WORDS and len({n.casefold() for n in names}) == len(names)
        assert all(n and len(n) <= MAX_LENGTH and n == " ".join(n.split()) for n in names)
        "".join(names).encode()
        assert validate_names(names) == names

    return case


def settings(folder: Path) -> Case:
    """Values of the engine's settings, as parameters bring them."""
    defaults = vars(Settings())

    def case(rng: random.Random) -> None:
        values: dict[str, Any] = {}
        for name, default in rng.sample(list(defaults.items()), 2):
            if isinstance(default, bool):
                values[name] = rng.random() < 0.5
            elif isinstance(default, str):
                values[name] = rng.choice((default, text(rng)))
            elif isinstance(default, int):
                values[name] = rng.choice((default, 0, -1, 2**63 - 1, -(2**63), rng.randrange(10**6)))
            else:
                values[name] = rng.choice((rng.uniform(-2, 2), float("nan"), float("inf"), -0.0, 1.0, 1e-320))
        Settings(**values)

    return case


MESSAGES: dict[str, Callable[[Path], Case]] = {
    "raw": raw,
    "compressed": compressed,
    "vocabulary": vocabulary,
    "settings": settings,
}


# --- Files -----------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path) -> Case:
    """Checkpoints with bytes flipped, cut off, or with another header: other keys, shapes, types, offsets or sizes."""
    import tiny

    from instformer_ros.weights import checkpoint as store

    path = folder / "model.safetensors"
    store.save(tiny.model(), path, {"proposals": "Apache-2.0"})
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]

    def case(rng: random.Random) -> None:
        if rng.random() < 0.4:
            path.write_bytes(damage(rng, good))
        else:
            changed = copy.deepcopy(header)
            if rng.random() < 0.6:
                config = tamper(rng, json.loads(changed["__metadata__"]["config"]))
                changed["__metadata__"]["config"] = json.dumps(config)
            else:
                changed = tamper(rng, changed)
            if rng.random() < 0.02:
                changed["__metadata__"] = {"format": store.FORMAT, "config": "[" * 10**5}
            head = json.dumps(changed).encode(errors="surrogatepass")
            told = len(head) if rng.random() < 0.95 else rng.choice((0, 2**31, 2**63 - 1, len(good)))
            path.write_bytes(struct.pack("<Q", told) + head + body)
        store.load(path)

    return case


def run_lengths(folder: Path) -> Case:
    """Masks of a results or annotation file whose run lengths are anything."""
    mask = np.zeros((30, 40), np.bool_)
    mask[4:20, 7:33] = True
    good = masks.encode(mask)["counts"]

    def case(rng: random.Random) -> None:
        kind = rng.randrange(3)
        counts: Any = good if kind == 0 else damage(rng, good) if kind == 1 else rng.randbytes(rng.randrange(40))
        if kind == 2 and rng.random() < 0.7:
            counts = bytes(48 + c % 64 for c in counts)
        if rng.random() < 0.3:
            counts = counts.decode("latin1")
        size = rng.choice(
            ([30, 40], [30, 40], [0, 0], [1, 1], [rng.randrange(50), rng.randrange(50)], [2**20, 2**20], [-1, 4])
        )
        rle: Any = {"size": size, "counts": counts}
        decoded = masks.decode(rle)
        assert decoded.shape == tuple(size)
        area = int(decoded.sum())
        assert masks.area(rle) == area and (masks.box(rle)[2] > 0) == (area > 0)

    return case


def picture(folder: Path) -> Case:
    """Picture files, through the way of ``instformer segment``."""
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    good = {e: cv2.imencode(e, image)[1].tobytes() for e in (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm")}

    def case(rng: random.Random) -> None:
        extension = rng.choice(list(good))
        path = folder / f"picture{extension}"
        path.write_bytes(damage(rng, good[extension]))
        for frame in open_source(path):
            check_picture(frame)

    return case


def bag(folder: Path) -> Case:
    """Bags with damaged storage files and damaged metadata."""
    import bag_files
    from rosbags.rosbag2 import CompressionMode, StoragePlugin

    images = [bag_files.raw(n, p) for n, p in enumerate(bag_files.pictures(2, 6, 8))]
    good: list[tuple[Path, dict[str, bytes]]] = []
    for plugin, mode in (
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
    ):
        path = folder / f"bag {plugin.name} {mode.name}"
        bag_files.write(path, {"/eye": images, "/chat": [bag_files.text(0)]}, plugin, mode)
        good.append((path, {file.name: file.read_bytes() for file in path.iterdir()}))

    def case(rng: random.Random) -> None:
        path, files = rng.choice(good)
        hurt = rng.choice(list(files))
        for name, content in files.items():
            (path / name).write_bytes(damage(rng, content) if name == hurt else content)
        with open_source(path, topic=rng.choice(("", "/eye", "/chat", text(rng)))) as source:
            for frame in source:
                check_picture(frame)

    return case


def text_cache(folder: Path) -> Case:
    """Damaged files in the cache of text embeddings: they cost time and nothing else."""
    import torch

    from instformer_ros.text_cache import TextCache

    class Encoder:
        def fingerprint(self) -> str:
            return "fuzz"

        def __call__(self, names: list[str]) -> Any:
            return torch.nn.functional.normalize(torch.ones(len(names), 8), dim=-1)

    encoder: Any = Encoder()
    TextCache(encoder, folder)(["mug"], 8)
    (file,) = (folder / "fuzz").iterdir()
    good = file.read_bytes()

    def case(rng: random.Random) -> None:
        file.write_bytes(damage(rng, good))
        found = TextCache(encoder, folder)(["mug"], 8)
        assert found.shape == (1, 8) and abs(float(found.norm()) - 1) < 1e-3

    return case


FILES: dict[str, Callable[[Path], Case]] = {
    "checkpoint": checkpoint,
    "run_lengths": run_lengths,
    "picture": picture,
    "bag": bag,
    "text_cache": text_cache,
}
