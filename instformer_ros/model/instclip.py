"""InstCLIP: one pass of CLIP's vision transformer gives a token for every instance (paper Sec. 4.2).

Tokens are [R | I_1..I_N | patches]. Patches and the register never see instances, so the network splits into a context
stream (R and patches: CLIP as it is) and an instance stream that reads from it, exactly and at less cost. The one
masked attention over all tokens (paper Eq. 3) is kept beside it as the reference: ``streams=False``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.clip import build_clip
from instformer_ros.model.config import ClipConfig, InstClipConfig
from instformer_ros.model.guidance import guidance_bias, guidance_matrix
from instformer_ros.model.lora import BlockWeights, Lora, block_weights
from instformer_ros.model.normalise import normalise
from instformer_ros.model.packed import PackedLinear, can_pack

Linear = Callable[[Tensor], Tensor]


class _Packed(NamedTuple):
    """What takes the place of the weights on a CPU."""

    patches: PackedLinear
    blocks: list[_Layers]
    first: Tensor | None  # (1, I_0s, 3D) projections of every I_0 in the first block, the same in every frame


class _Layers(NamedTuple):
    """The linear layers of one block, as functions of tokens (..., in) -> (..., out)."""

    attention: tuple[Linear, ...]  # one: [q; k; v], or in the last block two: q, [k; v]
    output: Linear  # of the attention
    expand: Linear  # first of the feed-forward network, with its activation
    contract: Linear  # its second


@dataclass
class InstClipOutput:
    """All that comes out, projected to CLIP's embedding space but not normalised."""

    instances: Tensor  # (B, N, E)
    register: Tensor  # (B, E)
    patches: Tensor  # (B, P, E)


class InstClip(nn.Module):
    """CLIP with instance tokens. CLIP is frozen; LoRA, I_0 and R_0 learn."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, clip_config: ClipConfig, config: InstClipConfig, instances: int) -> None:
        super().__init__()
        self.config = config
        self.clip: Any = build_clip(clip_config)
        self.clip.requires_grad_(False)
        self.embed_dim: int = self.visual.proj.shape[1]
        self.patch: int = self.visual.patch_size[0]
        width = self.visual.class_embedding.shape[0]
        self.instance_tokens = nn.Parameter(torch.empty(instances, width))  # I_0
        self.register_token = nn.Parameter(torch.empty(width))  # R_0
        self.lora = nn.ModuleList(
            Lora(width, config.lora_rank, config.lora_alpha, config.lora_placement, block.mlp.c_fc.out_features)
            for block in self.blocks
            if config.lora_rank > 0
        )
        self.register_buffer("pixel_mean", 255 * torch.tensor(clip_config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(clip_config.std).view(3, 1, 1), persistent=False)
        self._packed: _Packed | None = None
        self.reset_tokens()

    @property
    def visual(self) -> Any:
        """open_clip's vision transformer."""
        return self.clip.visual

    @property
    def blocks(self) -> Any:
        """Its residual attention blocks, a ``ModuleList``."""
        return self.clip.visual.transformer.resblocks

    @torch.no_grad()
    def reset_tokens(self) -> None:
        """R_0 and every I_0 become CLIP's class token (P): class embedding + its position. Call after loading CLIP."""
        token = self.visual.class_embedding + self.visual.positional_embedding[0]
        self.register_token.copy_(token)
        self.instance_tokens.copy_(token.expand_as(self.instance_tokens))

    @torch.no_grad()
    def merge_lora(self) -> None:
        """Folds the adapters into CLIP's weights, for inference; does nothing where there are none."""
        if not len(self.lora):
            return
        for block, adapted in zip(self.blocks, self._weights(), strict=True):
            for weight, value in zip(block_weights(block), adapted, strict=True):
                weight.copy_(value)
        self.lora = nn.ModuleList()

    @torch.no_grad()
    def pack(self) -> None:
        """Packs the weights for a CPU and lets go of those that they were made of: for inference, after all else."""
        if not can_pack(self.visual.conv1.weight.dtype):
            return
        blocks = []
        for block in self.blocks:
            weights = block_weights(block)
            blocks.append(_layers(block, weights, block is self.blocks[-1], packed=True))
            for weight in (*weights, block.attn.out_proj.weight):
                weight.data = weight.data.new_empty(0)
        tokens = self.blocks[0].ln_1(self.visual.ln_pre(self.instance_tokens))[None]
        first = blocks[0].attention[0](tokens) if len(blocks) > 1 else None
        self._packed = _Packed(PackedLinear(self._patch_weight(), None), blocks, first)

    def unpack(self) -> None:
        """Lets go of the packed weights too."""
        self._packed = None

    def forward(self, images: Tensor, mask_logits: Tensor, queries: Tensor | None = None) -> Tensor:
        """Instance tokens of a batch.

        Args:
            images: (B, 3, H, W) float, RGB, 0-255, any size.
            mask_logits: (B, N, ceil(H/4), ceil(W/4)), > 0 is foreground.
            queries: (B, N) or (N,) which I_0 each mask starts from; None = the first N in order.

        Returns:
            (B, N, E), L2-normalised.
        """
        bias = self._bias(images, mask_logits)
        context, tokens = self._start(images, bias, queries)
        _, tokens = self._two_streams(context, tokens, bias, self._known(tokens, queries), context_wanted=False)
        return F.normalize(self.visual.ln_post(tokens) @ self.visual.proj, dim=-1)

    def encode(
        self, images: Tensor, mask_logits: Tensor, queries: Tensor | None = None, streams: bool = True
    ) -> InstClipOutput:
        """As :meth:`forward`, with the register and the patches; ``streams=False`` is one masked attention over all."""
        return self.encode_with_bias(images, self._bias(images, mask_logits), queries, streams)

    def encode_with_bias(
        self, images: Tensor, bias: Tensor, queries: Tensor | None = None, streams: bool = True
    ) -> InstClipOutput:
        """As :meth:`encode`, with the guidance B (B, N, P) given."""
        context, tokens = self._start(images, bias, queries)
        run = partial(self._two_streams, known=None) if streams else self._one_attention
        context, tokens = run(context, tokens, bias)
        context, tokens = (self.visual.ln_post(x) @ self.visual.proj for x in (context, tokens))
        return InstClipOutput(tokens, context[:, 0], context[:, 1:])

    def _bias(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        return guidance_bias(mask_logits, (images.shape[-2], images.shape[-1]), self.patch, self.config)

    def _start(self, images: Tensor, bias: Tensor, queries: Tensor | None) -> tuple[Tensor, Tensor]:
        """Context (B, 1 + P, D) and instance tokens (B, N, D) as they enter the first block."""
        patches = self._patches(images)
        batch, instances = bias.shape[:2]
        start = self.instance_tokens[:instances] if queries is None else self.instance_tokens[queries]
        register = self.register_token.expand(batch, 1, -1)
        # ln_pre acts on each token alone, so the streams can be normalised apart
        return self.visual.ln_pre(torch.cat([register, patches], 1)), self.visual.ln_pre(start.expand(batch, -1, -1))

    def _patches(self, images: Tensor) -> Tensor:
        """Embedded patches with their positions, (B, P, D). The border is padded with the mean colour."""
        x = normalise(images, self.pixel_mean, self.pixel_std)
        x = F.pad(x, (0, -x.shape[-1] % self.patch, 0, -x.shape[-2] % self.patch))
        # CLIP's convolution as the matrix product that it is
        x = x.permute(0, 2, 3, 1).unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch)).transpose(2, 3)
        grid = (x.shape[1], x.shape[2])
        embed: Linear = self._packed.patches if self._packed else _plain(self._patch_weight(), None)
        x = embed(x.flatten(3).flatten(1, 2))
        return x + resize_positions(self.visual.positional_embedding[1:], self.visual.grid_size, grid)

    def _patch_weight(self) -> Tensor:
        """(D, patch * patch * 3), for pixels row by row with their colours."""
        return cast(Tensor, self.visual.conv1.weight.permute(0, 2, 3, 1).flatten(1))

    def _weights(self) -> list[BlockWeights]:
        """The weights of all blocks, adapted where there are adapters."""
        weights = [block_weights(block) for block in self.blocks]
        if not len(self.lora):
            return weights
        return [cast(Lora, lora).adapt(w) for lora, w in zip(self.lora, weights, strict=True)]

    def _all_layers(self) -> list[_Layers]:
        if self._packed is not None:
            return self._packed.blocks
        pairs = zip(self.blocks, self._weights(), strict=True)
        return [_layers(block, weights, block is self.blocks[-1]) for block, weights in pairs]

    def _known(self, tokens: Tensor, queries: Tensor | None) -> Tensor | None:
        """Projections (B, N, 3D) of the instance tokens in the first block, where weights are packed."""
        if self._packed is None or self._packed.first is None:
            return None
        rows = self._packed.first[:, : tokens.shape[1]] if queries is None else self._packed.first[0, queries]
        return rows.expand(len(tokens), -1, -1)

    def _two_streams(
        self, context: Tensor, tokens: Tensor, bias: Tensor, known: Tensor | None, context_wanted: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Both streams through all blocks. Unless it is wanted, the context gives only keys and values in the last.

        They meet in the attention alone: for all else they are one list of tokens, so that weights are read once.
        """
        first = 0 if self.config.register_visible else 1
        least = 0 if self.config.register else 1  # first key of the context that the context itself sees
        mask = F.pad(bias, (1 - first, 0))[:, None]  # (B, 1, N, [R] + P); a visible register has bias 0
        split = context.shape[1]
        x = torch.cat([context, tokens], 1)
        for block, layers in zip(self.blocks, self._all_layers(), strict=True):
            asking = 0 if context_wanted or block is not self.blocks[-1] else split
            q, k, v = _project(block, layers, x, asking, known if block is self.blocks[0] else None)
            seen, own = slice(first, split), slice(split, None)
            attended = _attend_guided(
                q[:, :, split - asking :], k[:, :, seen], v[:, :, seen], k[:, :, own], v[:, :, own], mask
            )
            if not asking:
                keys, values = k[:, :, least:split], v[:, :, least:split]
                frame = F.scaled_dot_product_attention(q[:, :, :split], keys, values)
                attended = torch.cat([frame, attended], 2)
            x = _finish(block, layers, x[:, asking:], attended)
        return (context, x) if asking else (x[:, :split], x[:, split:])

    def _one_attention(self, context: Tensor, tokens: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        instances = tokens.shape[1]
        matrix = guidance_matrix(bias, self.config.register_visible, self.config.register)[:, None]
        x = torch.cat([context[:, :1], tokens, context[:, 1:]], 1)
        for block, layers in zip(self.blocks, self._all_layers(), strict=True):
            q, k, v = _project(block, layers, x)
            x = _finish(block, layers, x, F.scaled_dot_product_attention(q, k, v, matrix.to(q.dtype)))
        return torch.cat([x[:, :1], x[:, 1 + instances :]], 1), x[:, 1 : 1 + instances]


def _layers(block: Any, weights: BlockWeights, last: bool, packed: bool = False) -> _Layers:
    """``weights``, perhaps adapted, with the biases of ``block``. In the ``last`` block not all tokens ask."""
    make: Callable[..., Linear] = PackedLinear if packed else _plain
    width, bias = weights.in_proj.shape[1], block.attn.in_proj_bias
    parts = (slice(0, width), slice(width, None)) if last else (slice(None),)
    return _Layers(
        attention=tuple(make(weights.in_proj[part], bias[part]) for part in parts),
        output=make(block.attn.out_proj.weight, block.attn.out_proj.bias),
        expand=make(weights.fc, block.mlp.c_fc.bias, block.mlp.gelu),
        contract=make(weights.proj, block.mlp.c_proj.bias),
    )


def _plain(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> Linear:
    linear = partial(F.linear, weight=weight, bias=bias)
    return linear if activation is None else lambda x: activation(linear(x))


def _project(
    block: Any, layers: _Layers, x: Tensor, asking: int = 0, known: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pre-norm and projection of one block, each (B, heads, tokens, D / heads).

    Queries from token ``asking`` on. Those of the last tokens may be ``known``, (B, n, 3D), in all blocks but the last.
    """
    heads = block.attn.num_heads
    x = block.ln_1(x if known is None else x[:, : x.shape[1] - known.shape[1]])
    if len(layers.attention) == 1:
        packed = layers.attention[0](x)
        packed = packed if known is None else torch.cat([packed, known], 1)
        q, k, v = packed.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    else:
        ask, answer = layers.attention
        q = ask(x[:, asking:]).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = answer(x).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _attend_guided(q: Tensor, k: Tensor, v: Tensor, own_k: Tensor, own_v: Tensor, bias: Tensor) -> Tensor:
    """Attention of instances (B, heads, N, d) to the keys (B, heads, K, d), with a bias, and each to its own key.

    The own key is one more column of the scores, in place of the N that a mask over all instances would need.
    """
    q = q * q.shape[-1] ** -0.5
    own = (q * own_k).sum(-1, keepdim=True)
    shares = torch.cat([q @ k.transpose(-2, -1) + bias, own], -1).softmax(-1)
    return shares[..., :-1] @ v + shares[..., -1:] * own_v


def _finish(block: Any, layers: _Layers, x: Tensor, attended: Tensor) -> Tensor:
    """Output projection, residual and feed-forward network of one block."""
    x = x + block.ls_1(layers.output(attended.transpose(1, 2).flatten(2)))
    return x + block.ls_2(layers.contract(layers.expand(block.ln_2(x))))


def resize_positions(positions: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings of the patches, (h * w, D) of the native grid to (H * W, D); bicubic, identity if equal."""
    if tuple(native) == tuple(grid):
        return positions
    table = positions.t().unflatten(1, tuple(native))[None]
    table = F.interpolate(table, tuple(grid), mode="bicubic", align_corners=False, antialias=True)
    return table[0].flatten(1).t()
