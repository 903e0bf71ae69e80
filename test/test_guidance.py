"""Mask logits as attention bias: sizes, borders, kinds, and the whole matrix against the table of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from instformer_ros.model.config import InstClipConfig
from instformer_ros.model.guidance import guidance_bias, guidance_matrix

INF = math.inf


def test_designed_guidance_by_hand() -> None:
    """Constant masks survive the resizing, so the bias is the clamped logit."""
    logits = torch.tensor([-30.0, -3.0, 0.5, 30.0]).view(1, 4, 1, 1).expand(1, 4, 4, 8)
    for scale, clamp, wanted in ((1.0, 10.0, [-10, -3, 0.5, 10]), (2.0, 4.0, [-4, -4, 1, 4])):
        bias = guidance_bias(logits, (16, 32), 8, InstClipConfig(scale=scale, clamp=clamp))
        assert bias.shape == (1, 4, 8)
        assert torch.allclose(bias, torch.tensor(wanted)[None, :, None].expand(1, 4, 8).float())


def test_a_patch_takes_its_largest_logit() -> None:
    """A small object would vanish under averaging. Written out: bilinear to full size, the maximum of each patch."""
    logits = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 0] = -9
    logits[0, 0, 2, 3] = 9  # a single pixel of the mask, a quarter of a patch
    height, width, patch = 18, 27, 8
    full = F.interpolate(logits, (20, 28), mode="bilinear", align_corners=False)[..., :height, :width]
    wanted = torch.stack(
        [
            full[..., y : y + patch, x : x + patch].amax((-2, -1))
            for y in range(0, height, patch)
            for x in range(0, width, patch)
        ],
        -1,
    )
    bias = guidance_bias(logits, (height, width), patch, InstClipConfig())
    assert bias.shape == (2, 3, 3 * 4)
    assert (bias - wanted).abs().max() < 1e-12
    assert bias[0, 0].max() > 4, "one pixel of the mask suffices"


@pytest.mark.parametrize(
    ("size", "patch"), [((32, 48), 16), ((36, 44), 16), ((44, 60), 4), ((8, 4), 32), ((40, 24), 8)]
)
def test_only_pixels_that_can_be_the_largest_are_looked_at(size: tuple[int, int], patch: int) -> None:
    """The short way that whole mask cells allow, against the definition; ragged patches as well."""
    logits = torch.randn(2, 11, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(3)).double()
    full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    full = F.pad(full, (0, -size[1] % patch, 0, -size[0] % patch), value=-math.inf)
    wanted = F.max_pool2d(full, patch).flatten(2)
    assert (guidance_bias(logits, size, patch, InstClipConfig()) - wanted).abs().max() < 1e-12


def test_what_lies_beyond_the_picture_does_not_count() -> None:
    """The masks' last row and column reach beyond a picture whose size is no multiple of their stride."""
    logits = torch.full((1, 1, 3, 3), -5.0)
    inside = guidance_bias(logits, (9, 9), 8, InstClipConfig())
    assert inside.shape == (1, 1, 4)
    assert torch.allclose(inside, torch.full_like(inside, -5.0)), "padding is no foreground"
    assert torch.equal(guidance_bias(logits, (9, 9), 8, InstClipConfig(guidance="binary")), torch.full((1, 1, 4), -INF))


def test_shift_makes_the_largest_bias_zero() -> None:
    logits = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(1)) * 8
    plain = guidance_bias(logits, (16, 32), 8, InstClipConfig())
    shifted = guidance_bias(logits, (16, 32), 8, InstClipConfig(shift=True))
    assert torch.equal(shifted.amax(-1), torch.zeros(2, 3))
    assert torch.allclose(shifted - shifted[..., :1], plain - plain[..., :1], atol=1e-5)


def test_binary_and_no_guidance() -> None:
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 1, :2, :2] = 7.0  # the upper left patch, and by the resizing a seam of its neighbours
    binary = guidance_bias(logits, (16, 16), 8, InstClipConfig(guidance="binary"))
    assert torch.equal(binary[0, 0], torch.full((4,), -INF))
    assert set(binary.unique().tolist()) == {-INF, 0.0}
    assert binary[0, 1, 0] == 0
    assert not guidance_bias(logits, (16, 16), 8, InstClipConfig(guidance="none")).any()


@pytest.mark.parametrize("guidance", ["designed", "binary", "none"])
def test_no_instance_and_no_gradient(guidance: str) -> None:
    config = InstClipConfig(guidance=guidance)  # type: ignore[arg-type]
    assert guidance_bias(torch.zeros(2, 0, 4, 8), (16, 32), 8, config).shape == (2, 0, 8)
    assert not guidance_bias(torch.randn(1, 2, 4, 8, requires_grad=True), (16, 32), 8, config).requires_grad


@pytest.mark.parametrize("visible", [False, True])
def test_the_matrix_is_the_table(visible: bool) -> None:
    bias = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    matrix = guidance_matrix(bias, visible)
    register, instances, patches = "R", "I", "P"
    kinds = [(register, 0), *((instances, i) for i in range(3)), *((patches, p) for p in range(5))]
    assert matrix.shape == (2, 9, 9)
    assert matrix.dtype == torch.float32, "boolean masks mean opposite things in different implementations"
    for b in range(2):
        for row, (who, i) in enumerate(kinds):
            for column, (whom, j) in enumerate(kinds):
                if who == instances:
                    wanted = {
                        register: 0.0 if visible else -INF,
                        instances: 0.0 if i == j else -INF,
                        patches: float(bias[b, i, j]) if whom == patches else 0.0,
                    }[whom]
                else:
                    wanted = -INF if whom == instances else 0.0
                assert float(matrix[b, row, column]) == wanted
