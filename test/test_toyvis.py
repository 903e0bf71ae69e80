"""ToyVIS is what its documentation promises, from any seed."""

from __future__ import annotations

import itertools
import zlib

import cv2
import numpy as np
import pytest

from instformer_ros.data import toyvis
from instformer_ros.data.sprites import INNER, OUTER, Pose, paint, random_look
from instformer_ros.data.toynames import COLOURS, SHAPES, TEXTURES
from instformer_ros.data.toypaths import Path, _occlusion_holds
from instformer_ros.data.toyvis import ALL_NAMES, SPLITS, ToyVideo, class_names, labelled_frame, scene, split_of
from instformer_ros.structures import InstformerError

# ---- names and splits


def test_split_sizes_and_that_they_part_the_names() -> None:
    assert len(ALL_NAMES) == len(set(ALL_NAMES)) == 108
    assert {split: len(names) for split, names in SPLITS.items()} == {"base": 48, "novel": 36, "compositional": 24}
    assert sorted(itertools.chain(*SPLITS.values())) == sorted(ALL_NAMES)
    assert all(split_of(name) == split for split, names in SPLITS.items() for name in names)
    assert class_names() == ALL_NAMES
    assert class_names("novel") == SPLITS["novel"]


def test_the_split_never_moves() -> None:
    """A checkpoint is trained on it: another rule would silently leak what it must not have seen."""
    assert zlib.crc32("|".join(itertools.chain(*SPLITS.values())).encode()) == SPLIT_CHECKSUM
    assert [split_of(f"red {texture} star") for texture in TEXTURES] == ["novel", "base", "base"]


@pytest.mark.parametrize("split", ["base", "novel", "compositional"])
def test_each_word_occurs_in_each_split_equally_often(split: str) -> None:
    names = [name.split() for name in SPLITS[split]]
    for position, words in enumerate((COLOURS, TEXTURES, SHAPES)):
        counts = {word: sum(name[position] == word for name in names) for word in words}
        assert len(set(counts.values())) == 1, counts


def test_each_pair_of_words_occurs_in_base() -> None:
    names = [name.split() for name in SPLITS["base"]]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        kinds = (COLOURS, TEXTURES, SHAPES)
        assert {(name[a], name[b]) for name in names} == set(itertools.product(kinds[a], kinds[b]))


def test_unknown_names_and_splits() -> None:
    with pytest.raises(InstformerError, match="purple"):
        split_of("purple plain star")
    with pytest.raises(InstformerError, match="train"):
        class_names("train")


# ---- sprites


@pytest.mark.parametrize("shape", SHAPES)
def test_painted_shape_lies_between_its_inner_and_outer_circle(shape: str) -> None:
    """The full occlusions are planned with these circles."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        image = np.zeros((140, 140, 3), np.uint8)
        pose = Pose(70 + rng.random(), 70 + rng.random(), rng.uniform(24, 96), rng.uniform(0, 7))
        touched = paint(image, random_look(rng, f"red plain {shape}"), pose)
        assert touched is not None
        mask = np.zeros((140, 140), bool)
        mask[touched[0], touched[1]] = touched[2]
        y, x = np.mgrid[:140, :140] + 0.5
        distance = np.hypot(x - pose.x, y - pose.y)
        assert not mask[distance > OUTER[shape] * pose.diameter / 2 + 0.8].any()
        assert mask[distance < INNER[shape] * pose.diameter / 2 - 0.8].all()
        assert mask.any()


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_sprite_has_its_colour_and_its_texture_at_the_smallest_size(name: str) -> None:
    colour, texture, shape = name.split()
    image = np.full((40, 40, 3), 128, np.uint8)
    touched = paint(image, random_look(np.random.default_rng(5), name), Pose(20, 20, 24, 0.3))
    assert touched is not None
    pixels = image[touched[0], touched[1]][touched[2]]
    hsv = cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV_FULL)[0].astype(float)
    hue = np.deg2rad(hsv[:, 0] * 360 / 256)
    weight = hsv[:, 1]
    mean = np.rad2deg(np.angle((weight * np.exp(1j * hue)).sum()))
    off = abs((mean - 60 * COLOURS.index(colour) + 180) % 360 - 180)
    assert off < 13, f"hue {mean:.0f}"
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    contrast = np.percentile(grey, 95) - np.percentile(grey, 5)
    if texture == "plain":
        assert contrast < 45
    else:
        assert contrast > 60, f"{shape}: second tone not seen"


def test_a_sprite_outside_the_picture_paints_nothing() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    look = random_look(np.random.default_rng(0), "red plain star")
    for x, y in ((-60, 20), (130, 20), (20, -60), (20, 130)):
        assert paint(image, look, Pose(x, y, 40, 0)) is None
    assert not image.any()


# ---- scenes and labelled frames


def test_scenes_are_described_by_their_captions() -> None:
    rng = np.random.default_rng(1)
    counts, forms = [], set()
    for _ in range(300):
        image, caption, objects = scene(rng, SPLITS["novel"], (64, 80))
        assert image.shape == (64, 80, 3)
        assert image.dtype == np.uint8
        assert set(objects) <= set(SPLITS["novel"])
        places = [caption.index(name) for name in objects]
        assert places == sorted(places)
        assert sum(caption.count(name) for name in SPLITS["novel"]) == len(objects)
        counts.append(len(objects))
        forms.add(caption.replace(objects[0], "*")) if len(objects) == 1 else None
    assert set(counts) == {1, 2, 3}
    assert 0.4 < np.mean(np.array(counts) == 1) < 0.6
    assert len(forms) >= 12


def test_labelled_frames() -> None:
    rng = np.random.default_rng(2)
    for _ in range(25):
        image, masks, names = labelled_frame(rng)
        assert image.shape == (192, 256, 3)
        assert masks.dtype == np.bool_
        assert masks.shape == (len(names), 192, 256)
        assert set(names) <= set(SPLITS["base"])
        assert masks.sum(0).max() <= 1, "visible parts do not overlap"
        assert masks.any((1, 2)).all()


def test_unlabelled_objects_cover_but_are_not_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    painted: list[str] = []
    plain = toyvis.render

    def spy(image, looks, poses):  # type: ignore[no-untyped-def]
        painted.extend(look.name for look in looks)
        return plain(image, looks, poses)

    monkeypatch.setattr(toyvis, "render", spy)
    names = labelled_frame(np.random.default_rng(3), ("red plain circle",), ("blue dotted star",))[2]
    assert set(names) == {"red plain circle"}
    assert 1 <= painted.count("blue dotted star") <= 2


def test_the_same_generator_state_gives_the_same_picture() -> None:
    for make in (lambda rng: scene(rng, ALL_NAMES), labelled_frame):
        first, again = make(np.random.default_rng(4)), make(np.random.default_rng(4))
        assert np.array_equal(first[0], again[0])
        assert first[2] == again[2]


# ---- videos


@pytest.mark.parametrize("seed", range(6))
def test_video_promises_on_pixels(seed: int) -> None:
    video = ToyVideo(seed)
    areas, frames = [], []
    for image, masks in video:
        assert image.shape == (video.height, video.width, 3) == (192, 256, 3)
        assert image.dtype == np.uint8
        assert masks.shape == (len(video.names), 192, 256)
        assert masks.sum(0).max() <= 1
        areas.append(masks.sum((1, 2)))
        frames.append(image)
    assert len(frames) == len(video) == video.length == 36
    assert len(video.track_ids) == len(set(video.track_ids)) == len(video.names)
    assert (np.array(areas).max(0) > 0).all(), "an object that is never seen is no object"
    seen = np.array(areas)[:, video.covered] > 0
    gone = np.flatnonzero(~seen[1:] & ~seen[:-1])
    assert any(seen[:t].any() and seen[t + 2 :].any() for t in gone), "two hidden frames between visible ones"
    moved = np.abs(np.diff(np.stack(frames)[:, ::8, ::8].astype(int), axis=0)).mean((1, 2, 3))
    assert moved.min() > 0.3, "the picture stands still"


def test_many_plans_hold_their_promises() -> None:
    counts, diameters, returned = [], [], 0
    for seed in range(150):
        video = ToyVideo(seed)
        counts.append(len(video.names))
        assert sorted(video.names.count(n) for n in set(video.names)) == [1] * (len(video.names) - 2) + [2]
        front, behind = video._paths[video.covering], video._paths[video.covered]
        assert video.covered < video.covering
        near = np.hypot(front.x - behind.x, front.y - behind.y)
        room = INNER[video.names[video.covering].split()[2]] * front.diameter / 2
        need = OUTER[video.names[video.covered].split()[2]] * behind.diameter / 2
        hidden = near + need < room
        assert (hidden[1:] & hidden[:-1]).any()
        diameters.extend(d for path in video._paths for d in (path.diameter.min(), path.diameter.max()))
        for path in video._paths:
            reach = 0.6 * path.diameter
            out = (path.x < -reach) | (path.x > 256 + reach) | (path.y < -reach) | (path.y > 192 + reach)
            inside = np.flatnonzero(~out)
            returned += bool(len(inside) and out[inside[0] : inside[-1]].any())
    assert set(counts) == {3, 4, 5, 6}
    assert min(diameters) >= 24
    assert max(diameters) <= 96
    assert returned > 40, "exits with re-entries in some"


@pytest.mark.parametrize(
    ("offset", "holds"),
    [
        (np.abs(np.arange(-12, 12)) * 8.0 * (np.abs(np.arange(-12, 12)) > 1), True),  # three frames behind the centre
        (np.abs(np.arange(-12, 12)) * 40.0, False),  # behind it for one frame only
        (np.full(24, 0.0), False),  # never in sight
        (np.full(24, 70.0), False),  # never behind
        (np.where(np.arange(24) < 12, 70.0, 0.0), False),  # does not come out again
        (np.where((np.arange(24) > 9) & (np.arange(24) < 14), 36.0, 70.0), False),  # behind, but peeping out
    ],
)
def test_what_counts_as_a_full_occlusion(offset: np.ndarray, holds: bool) -> None:
    rng, still = np.random.default_rng(0), np.zeros(24)
    looks = [random_look(rng, "red plain star"), random_look(rng, "blue plain circle")]
    front = Path(still + 128, still + 96, still + 90, still, still)
    behind = Path(front.x + offset, front.y, still + 30, still, still)
    assert _occlusion_holds(looks, [behind, front], 0, 1, np.zeros((24, 2))) is holds
    outside = np.zeros((24, 2))
    outside[10:15] = 300.0  # the camera looks elsewhere while it happens
    assert not _occlusion_holds(looks, [behind, front], 0, 1, outside), "hidden outside the picture is no occlusion"


def test_frames_do_not_depend_on_the_order_of_asking() -> None:
    forward, backward = ToyVideo(11), ToyVideo(11)
    late = {t: backward.frame(t) for t in (30, 17, 0)}
    for t in (0, 17, 30):
        image, masks = forward.frame(t)
        assert np.array_equal(image, late[t][0])
        assert np.array_equal(masks, late[t][1])


def test_a_seed_is_the_same_video_for_ever() -> None:
    """Names exactly; areas within what another processor's rounding may do."""
    video = ToyVideo(2026)
    assert video.names == KNOWN_NAMES
    areas = video.frame(10)[1].sum((1, 2))
    assert np.abs(areas - np.array(KNOWN_AREAS)).max() <= 8, areas.tolist()
    assert ToyVideo(2027).names != video.names


@pytest.mark.parametrize(
    "classes",
    [("red plain star",), ("red plain ring", "blue plain cross"), SPLITS["compositional"]],
)
def test_small_pools(classes: tuple[str, ...]) -> None:
    for seed in range(10):
        assert set(ToyVideo(seed, classes).names) <= set(classes)


def test_longer_videos() -> None:
    video = ToyVideo(3, length=100)
    assert len(video) == 100
    assert video.frame(99)[0].shape == (192, 256, 3)
    with pytest.raises(IndexError):
        video.frame(100)


def test_refusals() -> None:
    for arguments, word in (
        ({"seed": -1}, "seed"),
        ({"seed": 1, "length": 5}, "24"),
        ({"seed": 1, "classes": ("red plain ring",)}, "ring"),
        ({"seed": 1, "classes": ("a mug", "red plain star")}, "a mug"),
    ):
        with pytest.raises(InstformerError, match=word) as caught:
            ToyVideo(**arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


SPLIT_CHECKSUM = 3096387810
KNOWN_NAMES = ("blue plain ring", "blue plain ring", "blue dotted cross")
KNOWN_AREAS = [764, 89, 4589]
