"""Training clips: which frames, the same change for picture and masks, pseudo-clips of stills, mixed data sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from instformer_ros.data.clips import ClipOptions, ClipSampler, draw_frames, sample_clip
from instformer_ros.data.toyvideo import ToyVideo
from instformer_ros.data.videos import VideoDataset
from instformer_ros.structures import InstformerError

PLAIN = ClipOptions(short_side=(0, 0), flip=0.0, light=0.0)


@dataclass
class Square:
    """A white square on black that moves two pixels a frame; a second object is never seen."""

    length: int = 40
    height: int = 60
    width: int = 90
    names: tuple[str, ...] = ("square", "ghost")

    def frame(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        masks = np.zeros((2, self.height, self.width), bool)
        masks[0, 20:40, 5 + t : 25 + t] = True
        return np.repeat(masks[0, :, :, None], 3, 2).astype(np.uint8) * 255, masks


def test_frames_lie_in_order_within_reach() -> None:
    spans = set()
    for seed in range(300):
        chosen = draw_frames(np.random.default_rng(seed), 100, ClipOptions())
        assert len(chosen) == 5 and chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < 100
        spans.add(chosen[-1] - chosen[0])
    assert max(spans) <= 40 and max(spans) > 30  # +-20 about the middle is reached, and never passed


def test_a_short_video_repeats_frames_and_keeps_their_order() -> None:
    chosen = draw_frames(np.random.default_rng(0), 3, ClipOptions())
    assert len(chosen) == 5 and chosen == sorted(chosen) and set(chosen) <= {0, 1, 2}


@pytest.mark.parametrize("length", [40, 1])
def test_picture_and_masks_change_alike(length: int) -> None:
    for seed in range(20):
        clip = sample_clip(Square(length), np.random.default_rng(seed), ClipOptions(light=0.0))
        assert clip.names == ("square",)  # what is never seen is no object
        assert clip.images.shape[:3] == (5, *clip.masks.shape[2:]) and 240 <= min(clip.images.shape[1:3]) <= 480
        for image, mask in zip(clip.images, clip.masks[:, 0], strict=True):
            bright = (image.astype(int) - (124, 116, 104))[..., 2] > 0  # brighter than the grey of a pseudo-clip's rim
            disagree = (bright ^ mask).sum() / max(1, mask.sum())
            assert disagree < 0.12, seed  # all but the square's edge


def test_a_clip_is_mirrored_and_sized_as_one() -> None:
    mirrored = sample_clip(Square(), np.random.default_rng(1), replace(PLAIN, flip=1.0))
    straight = sample_clip(Square(), np.random.default_rng(1), PLAIN)
    assert np.array_equal(mirrored.images, straight.images[:, :, ::-1])
    assert np.array_equal(mirrored.masks, straight.masks[..., ::-1])
    tall = sample_clip(Square(height=50, width=100), np.random.default_rng(0), replace(PLAIN, short_side=(300, 300)))
    assert tall.images.shape[1:3] == (300, 600)
    capped = sample_clip(Square(), np.random.default_rng(0), replace(PLAIN, short_side=(300, 300), longest_side=90))
    assert capped.images.shape[1:3] == (60, 90)


def test_light_changes_the_picture_alone() -> None:
    bright = sample_clip(ToyVideo(3), np.random.default_rng(5), replace(PLAIN, light=0.4))
    plain = sample_clip(ToyVideo(3), np.random.default_rng(5), PLAIN)
    assert np.array_equal(bright.masks, plain.masks) and not np.array_equal(bright.images, plain.images)


def test_a_still_moves_differently_in_every_frame() -> None:
    clip = sample_clip(Square(1), np.random.default_rng(2), PLAIN)
    centres = [np.argwhere(mask).mean(0) for mask in clip.masks[:, 0]]
    assert len({tuple(c.round(3)) for c in centres}) == 5


def test_a_sampler_mixes_data_sets_and_repeats_itself() -> None:
    squares = VideoDataset("squares", [Square()], ("square", "ghost"))
    toys = VideoDataset("toys", [ToyVideo(n) for n in range(3)], ToyVideo(0).names)
    sampler = ClipSampler([squares, toys], PLAIN, [3, 1])
    drawn = [sampler(np.random.default_rng(n)) for n in range(60)]
    assert 30 < sum(c.names == ("square",) for c in drawn) < 58
    again = sampler(np.random.default_rng(7))
    assert np.array_equal(again.images, drawn[7].images) and again.names == drawn[7].names


@dataclass
class Glimpse(Square):
    """The square is seen in one frame of ten alone."""

    names: tuple[str, ...] = ("glimpse", "ghost")

    def frame(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        image, masks = super().frame(t)
        return image, masks & (t % 10 == 0)


def test_a_data_set_that_seldom_shows_an_object_gets_its_share_all_the_same() -> None:
    often, seldom = VideoDataset("often", [Square()], ("square",)), VideoDataset("seldom", [Glimpse()], ("glimpse",))
    sampler = ClipSampler([often, seldom], replace(PLAIN, frames=1), [1, 1])
    rng = np.random.default_rng(0)
    assert 75 < sum(sampler(rng).names == ("glimpse",) for _ in range(200)) < 125


def test_objects_of_other_classes_are_left_out_and_so_are_videos_of_them_alone() -> None:
    toys = [ToyVideo(n) for n in range(3)]
    wanted = toys[0].names[0]
    many = VideoDataset("many", [*(Square() for _ in range(500)), *toys], ("square", wanted))
    clip = ClipSampler([many], PLAIN, classes=[wanted])(np.random.default_rng(0))
    assert set(clip.names) == {wanted} and clip.masks.shape[1] == len(clip.names) and clip.masks.any()
    with pytest.raises(InstformerError, match="'many' holds no videos to train on"):
        ClipSampler([many], PLAIN, classes=["unicorn"])


def test_what_cannot_be_drawn_from_is_refused() -> None:
    squares = VideoDataset("squares", [Square()], ("square",))
    with pytest.raises(InstformerError, match="no data set"):
        ClipSampler([])
    with pytest.raises(InstformerError, match="'empty' holds no videos"):
        ClipSampler([VideoDataset("empty", [], ())])
    for weights in ([1, 2], [-1], [0], [float("nan")]):
        with pytest.raises(InstformerError, match="one number >= 0"):
            ClipSampler([squares], weights=weights)
    with pytest.raises(InstformerError, match="'squares': 100 clips in a row show no object"):
        ClipSampler([squares], replace(PLAIN, least_pixels=1000))(np.random.default_rng(0))
