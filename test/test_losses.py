"""Losses and matching against worked cases and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.mask_decoder import DecoderOutput
from instformer_ros.training.losses import (
    instance_margin_loss,
    mask_losses,
    objectness_loss,
    temporal_contrastive_loss,
)
from instformer_ros.training.matching import Match, Targets, match, sample


def pairs(*triples: tuple[int, int, int]) -> Match:
    """(image, query, target) each."""
    image, query, target = zip(*triples, strict=True)
    return Match(torch.tensor(image), torch.tensor(query), torch.tensor(target))


# -- L_SC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.8, 0.3])
def test_margin_of_identical_and_of_orthogonal_queries(margin: float) -> None:
    same = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0)).expand(2, 5, 16)
    assert float(instance_margin_loss(same, margin)) == pytest.approx(1 - margin, abs=1e-6)
    assert float(instance_margin_loss(same, margin, mean=False)) == pytest.approx(20 * (1 - margin), abs=1e-4)
    assert float(instance_margin_loss(3 * torch.eye(8)[None], margin)) == 0


def test_margin_is_the_mean_over_pairs() -> None:
    queries = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for image in queries:
        for i in range(4):
            for j in range(4):
                if i != j:
                    total += max(0.0, float(F.cosine_similarity(image[i], image[j], dim=0)) - 0.2)
    assert total > 0.5
    assert float(instance_margin_loss(queries, 0.2)) == pytest.approx(total / (2 * 12), abs=1e-6)
    assert float(instance_margin_loss(queries, 0.2, mean=False)) == pytest.approx(total / 2, abs=1e-5)


def test_margin_pushes_close_queries_apart_and_leaves_the_others() -> None:
    queries = torch.tensor([[[1.0, 0.05, 0.0], [1.0, 0.0, 0.05], [0.0, 1.0, 0.0]]], requires_grad=True)
    instance_margin_loss(queries, 0.8).backward()
    assert queries.grad is not None
    assert queries.grad[0, :2].abs().amax(1).min() > 0
    assert not queries.grad[0, 2].any()


# -- L_TC -------------------------------------------------------------------------------------------------------------


def test_temporal_loss_is_cross_entropy_of_cosines() -> None:
    generator = torch.Generator().manual_seed(2)
    predicted, tokens = torch.randn(3, 6, generator=generator), torch.randn(5, 6, generator=generator)
    target = torch.tensor([4, -1, 0])
    wanted = 0.0
    for i in (0, 2):
        cosines = [float(F.cosine_similarity(predicted[i], tokens[j], dim=0)) / 0.07 for j in range(5)]
        wanted += math.log(sum(math.exp(c) for c in cosines)) - cosines[int(target[i])]
    assert float(temporal_contrastive_loss(predicted, tokens, target)) == pytest.approx(wanted, rel=1e-5)


def test_queries_on_the_same_object_are_no_negatives_of_it() -> None:
    torch.manual_seed(0)
    predicted, tokens, target = torch.randn(2, 6), torch.randn(5, 6), torch.tensor([4, 0])
    same = torch.zeros(2, 5, dtype=torch.bool)
    same[0, [1, 4]] = True
    rest = torch.tensor([0, 2, 3, 4])
    wanted = temporal_contrastive_loss(predicted[:1], tokens[rest], torch.tensor([3]))
    wanted = wanted + temporal_contrastive_loss(predicted[1:], tokens, target[1:])
    assert float(temporal_contrastive_loss(predicted, tokens, target, same)) == pytest.approx(float(wanted), rel=1e-5)


def test_absent_objects_cost_nothing() -> None:
    predicted = torch.randn(3, 6, requires_grad=True)
    loss = temporal_contrastive_loss(predicted, torch.randn(5, 6), torch.tensor([-1, -1, 2]))
    loss.backward()
    assert predicted.grad is not None
    assert not predicted.grad[:2].any()
    assert predicted.grad[2].any()
    assert temporal_contrastive_loss(predicted, torch.randn(5, 6), torch.full((3,), -1)).item() == 0


# -- masks and objectness ---------------------------------------------------------------------------------------------


def heads(mask_logits: Tensor, class_logits: Tensor | None = None) -> DecoderOutput:
    """What a decoder layer gives out, of which only the masks (and classes) count here."""
    batch, count = mask_logits.shape[:2]
    classes = torch.zeros(batch, count, 2) if class_logits is None else class_logits
    return DecoderOutput(torch.zeros(batch, count, 4), classes, mask_logits)


def test_mask_losses_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant masks make the sampled points all alike, but at the very border, where samples fade to nought."""
    anywhere = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, device=None: 0.2 + 0.6 * anywhere(*size, device=device))
    logits = torch.tensor([[1.5, -0.5]]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    targets = Targets(torch.stack([torch.zeros(24, 32), torch.ones(24, 32)])[None], [2], torch.zeros(1, 2).long())
    entropy, dice = mask_losses(heads(logits), targets, pairs((0, 0, 1), (0, 1, 0)), points=100, objects=2)
    p, q = 1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(0.5))
    assert float(entropy) == pytest.approx((-math.log(p) - math.log(1 - q)) / 2, rel=1e-5)
    wanted = (1 - (200 * p + 1) / (100 * p + 100 + 1)) + (1 - 1 / (100 * q + 1))
    assert float(dice) == pytest.approx(wanted / 2, rel=1e-5)


def test_mask_losses_of_a_right_and_of_a_wrong_mask() -> None:
    torch.manual_seed(0)
    wanted = torch.zeros(1, 1, 24, 32)
    wanted[..., 4:16, 8:24] = 1
    logits = 40 * F.avg_pool2d(wanted, 4) - 20
    targets = Targets(wanted, [1], torch.zeros(1, 1).long())
    right = mask_losses(heads(logits), targets, pairs((0, 0, 0)), 500, 1)
    wrong = mask_losses(heads(-logits), targets, pairs((0, 0, 0)), 500, 1)
    assert all(float(loss) > 0.5 for loss in wrong)
    # the seam between two mask pixels is where most points lie, and where the resized edge is soft
    assert all(float(r) < 0.3 * float(w) for r, w in zip(right, wrong, strict=True))


def test_mask_losses_without_objects() -> None:
    logits = torch.randn(1, 2, 6, 8, requires_grad=True)
    none = Match(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)))
    entropy, dice = mask_losses(
        heads(logits), Targets(torch.zeros(1, 1, 24, 32), [0], torch.full((1, 1), -1)), none, 20, 1
    )
    assert entropy.item() == dice.item() == 0
    (entropy + dice).backward()


def test_objectness_by_hand() -> None:
    classes = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]])
    loss = objectness_loss(heads(torch.zeros(1, 3, 2, 2), classes), pairs((0, 2, 0)), objects=1)
    matched = math.log1p(math.exp(-3.0))
    rest = math.log1p(math.exp(2.0)) + math.log1p(math.exp(-1.0))
    assert float(loss) == pytest.approx((matched + 0.1 * rest) / 1.2, rel=1e-5)


def test_a_head_of_many_classes_says_object_with_all_of_them() -> None:
    many = torch.tensor([[[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]]])
    two = torch.stack([many[..., :2].logsumexp(-1), many[..., 2]], -1)
    losses = [objectness_loss(heads(torch.zeros(1, 2, 2, 2), c), pairs((0, 1, 0)), 1) for c in (many, two)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)


def test_samples_are_x_then_y() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    points = torch.tensor([[[0.5 / 8, 0.8], [6.5 / 8, 0.2], [0.5, 0.5]]])
    assert torch.allclose(sample(ramp, points)[0, 0], torch.tensor([0.0, 6.0, 3.5]))


# -- matching ---------------------------------------------------------------------------------------------------------


def planted(order: list[list[int]]) -> tuple[DecoderOutput, Targets]:
    """Images with stripes as objects; query ``order[b][k]`` predicts object k; padded to the most objects."""
    batch, most = len(order), max(len(o) for o in order)
    masks = torch.zeros(batch, most, 16, 32)
    logits = torch.full((batch, 6, 4, 8), -6.0)
    for b, queries in enumerate(order):
        for k, query in enumerate(queries):
            masks[b, k, :, 8 * k : 8 * k + 8] = 1
            logits[b, query, :, 2 * k : 2 * k + 2] = 6.0
    return heads(logits), Targets(masks, [len(o) for o in order], torch.full((batch, most), -1))


def test_matching_recovers_a_planted_assignment() -> None:
    torch.manual_seed(0)
    order = [[4, 0, 2], [5], [1, 3, 0, 2]]
    found = match(*planted(order), points=200)
    wanted = {(b, query, k) for b, queries in enumerate(order) for k, query in enumerate(queries)}
    got = list(zip(found.image.tolist(), found.query.tolist(), found.target.tolist(), strict=True))
    assert len(got) == len(wanted), "padding is nobody's object"
    assert set(got) == wanted


def test_of_two_equal_masks_the_more_certain_query_is_matched() -> None:
    torch.manual_seed(0)
    output, targets = planted([[1]])
    output.mask_logits[0, 4] = output.mask_logits[0, 1]
    for better in (1, 4):
        output.class_logits.zero_()
        output.class_logits[0, better, 0] = 3.0
        assert match(output, targets, points=100).query.tolist() == [better]


def test_images_without_objects_match_nothing() -> None:
    output, targets = planted([[1, 2], []])
    assert match(output, targets, points=50).image.tolist() == [0, 0]
