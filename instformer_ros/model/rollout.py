"""Rollout tracker: predicts this frame's tracking token of an instance from its past ones (paper Sec. 4.3, Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.config import RolloutConfig

IDENTITY = 0.05  # tanh is linear near zero, so a small multiple of the identity keeps every direction


def tracking_tokens(queries: Tensor, instance_tokens: Tensor, normalise: bool = True) -> Tensor:
    """T = Cat(Q, I) (paper Sec. 4.3).

    Args:
        queries: (..., N, C) decoder-normalised queries.
        instance_tokens: (..., N, E) L2-normalised instance tokens.
        normalise: L2-normalise the queries too, so that neither half dominates the cosine.

    Returns:
        (..., N, C + E)
    """
    if normalise:
        queries, instance_tokens = F.normalize(queries, dim=-1), F.normalize(instance_tokens, dim=-1)
    return torch.cat([queries, instance_tokens], -1)


def tracking_width(config: RolloutConfig, query_width: int, embed_dim: int) -> int:
    """Width of a tracking token: C + E, or C of a query alone."""
    return query_width + (embed_dim if config.association == "query+token" else 0)


class RolloutTracker(nn.Module):
    """One RNN layer; a linear layer, an MLP, or nothing in its place for ablation (paper Tab. 7).

    Untrained, its prediction has the direction of the last token, so that matching equals plain cosine matching.
    """

    def __init__(self, config: RolloutConfig, width: int) -> None:
        super().__init__()
        self.kind = config.kind
        self.association = config.association
        self.normalise = config.normalise_halves
        self.width = width
        if config.kind == "rnn":
            self.rnn = nn.RNN(width, width, batch_first=True)
            for parameter in self.rnn.parameters():
                nn.init.zeros_(parameter)
            with torch.no_grad():
                self.rnn.get_parameter("weight_ih_l0").copy_(IDENTITY * torch.eye(width))
        elif config.kind == "linear":
            self.linear = nn.Linear(width, width)
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        elif config.kind == "mlp":
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            nn.init.zeros_(self.mlp[2].weight)  # type: ignore[arg-type]  # a residual: starts as the identity
            nn.init.zeros_(self.mlp[2].bias)  # type: ignore[arg-type]

    def tokens(self, queries: Tensor, instance_tokens: Tensor) -> Tensor:
        """:func:`tracking_tokens` as this tracker was built to take them, or of the queries alone."""
        if self.association == "query":
            return F.normalize(queries, dim=-1) if self.normalise else queries
        return tracking_tokens(queries, instance_tokens, self.normalise)

    def initial_state(self, count: int, like: Tensor | None = None) -> Tensor:
        """h_0 = 0, (count, width), on the device of ``like``, by default that of the tracker's weights."""
        return (next(self.parameters(), torch.empty(0)) if like is None else like).new_zeros(count, self.width)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of Eq. 5 for K tracks.

        Args:
            tokens: (K, width) the tokens just matched.
            state: (K, width) hidden state.

        Returns:
            the tokens expected in the next frame and the new state, both (K, width)
        """
        if self.kind == "rnn":
            predicted, state = self.rnn(tokens[:, None], state[None])
            return predicted[:, 0], state[0]
        if self.kind == "linear":
            return self.linear(tokens), state
        if self.kind == "mlp":
            return tokens + self.mlp(tokens), state
        return tokens, state
