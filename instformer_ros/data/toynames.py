"""The 108 class names of ToyVIS and their fixed split into base, novel and compositional.

A name is colour, texture, shape: "red striped star". With shape s, colour c (0..5) and texture x (0..2) the rule is

- *novel*: ``x = s + c (mod 3)``: one texture for every pair of shape and colour (36 names);
- *compositional*: ``x = s + c + 1 (mod 3)``, unless ``s = c (mod 3)`` (24 names);
- *base*: the rest (48 names).

So every attribute and every pair of attributes occurs in base alone, each shape and each colour occurs equally often
in each split, and what a compositional name asks for is only the combination of all three.
"""

from __future__ import annotations

from types import MappingProxyType

from instformer_ros.structures import InstformerError

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # hue = 60 degrees x index
TEXTURES = ("plain", "striped", "dotted")
SPLIT_NAMES = ("base", "novel", "compositional")


def _split(shape: int, colour: int, texture: int) -> str:
    rest = (texture - shape - colour) % 3
    if rest == 0:
        return "novel"
    return "compositional" if rest == 1 and (shape - colour) % 3 else "base"


_SPLIT_OF = {
    f"{colour} {texture} {shape}": _split(s, c, x)
    for c, colour in enumerate(COLOURS)
    for x, texture in enumerate(TEXTURES)
    for s, shape in enumerate(SHAPES)
}
ALL_NAMES: tuple[str, ...] = tuple(_SPLIT_OF)
SPLITS = MappingProxyType({split: tuple(n for n in ALL_NAMES if _SPLIT_OF[n] == split) for split in SPLIT_NAMES})


def class_names(split: str = "all") -> tuple[str, ...]:
    """Names of one split, or of ``"all"``, in a fixed order.

    Raises:
        InstformerError: there is no such split.
    """
    if split == "all":
        return ALL_NAMES
    if split not in SPLITS:
        raise InstformerError(f"ToyVIS split '{split}': use one of {', '.join(SPLIT_NAMES)} or all")
    return SPLITS[split]


def split_of(name: str) -> str:
    """The split that a class name belongs to.

    Raises:
        InstformerError: the name is not one of ToyVIS.
    """
    if name not in _SPLIT_OF:
        raise InstformerError(f"ToyVIS class '{name}': write colour, texture, shape, for example 'red striped star'")
    return _SPLIT_OF[name]
