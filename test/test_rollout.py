"""The rollout tracker: neutral when untrained, the same step by step as unrolled, and its variants for ablation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker, tracking_tokens
from instformer_ros.tracking.association import assign, cosine_similarity

WIDTH = 768
KINDS = ["rnn", "linear", "mlp", "none"]


def tokens_of_frames(frames: int, count: int, peaked: bool = False) -> Tensor:
    """(frames, count, WIDTH) drifting tokens with unit halves; ``peaked``: a few large entries, as real CLIP has."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(count, WIDTH, generator=generator)
    if peaked:
        base[:, [5, 300, 301]] += torch.tensor([18.0, -25.0, 12.0])
    drift = base + 0.3 * torch.randn(frames, count, WIDTH, generator=generator).cumsum(0)
    return tracking_tokens(drift[..., :256], drift[..., 256:])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peaked", [False, True])
def test_untrained_it_is_plain_cosine_matching(kind: str, peaked: bool) -> None:
    tracker = RolloutTracker(RolloutConfig(kind=kind), WIDTH)  # type: ignore[arg-type]
    frames = tokens_of_frames(6, 12, peaked)
    state = tracker.initial_state(12)
    for now, following in itertools.pairwise(frames):
        predicted, state = tracker(now, state)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        rolled, plain = (cosine_similarity(x, following[order]).numpy() for x in (predicted, now))
        assert np.abs(rolled - plain).max() < 1e-3
        assert assign(rolled) == assign(plain)


@torch.no_grad()
def test_step_by_step_equals_the_unrolled_network() -> None:
    torch.manual_seed(0)
    tracker = RolloutTracker(RolloutConfig(), 24)
    for parameter in tracker.parameters():
        nn.init.normal_(parameter, std=0.2)
    tokens = torch.randn(9, 5, 24)
    unrolled, last = tracker.rnn(tokens.transpose(0, 1))
    state = tracker.initial_state(5)
    for t, token in enumerate(tokens):
        predicted, state = tracker(token, state)
        assert (predicted - unrolled[:, t]).abs().max() < 1e-6
    assert (state - last[0]).abs().max() < 1e-6


@torch.no_grad()
def test_the_recurrence_is_the_one_of_the_formula() -> None:
    """T^A_t = tanh(W_ih T_{t-1} + b_ih + W_hh h_{t-1} + b_hh), and the state is the output."""
    torch.manual_seed(1)
    tracker = RolloutTracker(RolloutConfig(), 8).double()
    for parameter in tracker.parameters():
        nn.init.normal_(parameter, std=0.3)
    token, state = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    rnn = tracker.rnn
    wanted = torch.tanh(
        F.linear(token, rnn.weight_ih_l0, rnn.bias_ih_l0) + F.linear(state, rnn.weight_hh_l0, rnn.bias_hh_l0)
    )
    predicted, after = tracker(token, state)
    assert (predicted - wanted).abs().max() < 1e-12
    assert torch.equal(after, predicted)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "mlp", "none"])
def test_the_variants_hold_no_state(kind: str) -> None:
    tracker = RolloutTracker(RolloutConfig(kind=kind), 16)  # type: ignore[arg-type]
    state = torch.randn(4, 16)
    predicted, after = tracker(torch.randn(4, 16), state)
    assert predicted.shape == (4, 16)
    assert torch.equal(after, state)
    assert torch.equal(tracker.initial_state(4), torch.zeros(4, 16))


def test_neither_half_of_a_token_dominates() -> None:
    queries, instances = 50 * torch.randn(2, 3, 6), F.normalize(torch.randn(2, 3, 10), dim=-1)
    both = tracking_tokens(queries, instances)
    assert both.shape == (2, 3, 16)
    assert torch.allclose(both[..., :6].norm(dim=-1), torch.ones(2, 3))
    assert torch.allclose(both[..., 6:].norm(dim=-1), torch.ones(2, 3))
    raw = RolloutTracker(RolloutConfig(normalise_halves=False), 16).tokens(queries, instances)
    assert torch.equal(raw, torch.cat([queries, instances], -1))
    assert torch.equal(RolloutTracker(RolloutConfig(), 16).tokens(queries, instances), both)
