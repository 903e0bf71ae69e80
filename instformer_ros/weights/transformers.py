"""Mask2Former as ``transformers`` keeps it (Mask2FormerForUniversalSegmentation): names of the arrays.

The names are those of the published files; what version 5 calls some of them in memory is understood as well.
"""

from __future__ import annotations

from instformer_ros.weights.layout import Layout

_BACKBONE = "model.pixel_level_module.encoder"
_PIXEL, _MODULE = "model.pixel_level_module.decoder", "model.transformer_module"
_DECODER = f"{_MODULE}.decoder"
_QKV = ("query", "key", "value")


def _resnet() -> list[tuple[str, tuple[str, ...]]]:
    rules: list[tuple[str, tuple[str, ...]]] = [
        ("backbone.conv1.{p}", (f"{_BACKBONE}.embedder.embedder.convolution.{{p}}",)),
        ("backbone.bn1.{p}", (f"{_BACKBONE}.embedder.embedder.normalization.{{p}}",)),
    ]
    for stage in range(4):
        ours, theirs = f"backbone.layer{stage + 1}.{{b}}", f"{_BACKBONE}.encoder.stages.{stage}.layers.{{b}}"
        for i in range(3):
            rules.append((f"{ours}.conv{i + 1}.{{p}}", (f"{theirs}.layer.{i}.convolution.{{p}}",)))
            rules.append((f"{ours}.bn{i + 1}.{{p}}", (f"{theirs}.layer.{i}.normalization.{{p}}",)))
        rules.append((f"{ours}.downsample.0.{{p}}", (f"{theirs}.shortcut.convolution.{{p}}",)))
        rules.append((f"{ours}.downsample.1.{{p}}", (f"{theirs}.shortcut.normalization.{{p}}",)))
    return rules


def _swin() -> list[tuple[str, tuple[str, ...]]]:
    ours, theirs = "backbone.layers.{i}.blocks.{j}", f"{_BACKBONE}.encoder.layers.{{i}}.blocks.{{j}}"
    table = "relative_position_bias_table"
    return [
        ("backbone.patch_embed.proj.{p}", (f"{_BACKBONE}.embeddings.patch_embeddings.projection.{{p}}",)),
        ("backbone.patch_embed.norm.{p}", (f"{_BACKBONE}.embeddings.norm.{{p}}",)),
        (f"{ours}.norm1.{{p}}", (f"{theirs}.layernorm_before.{{p}}",)),
        (f"{ours}.norm2.{{p}}", (f"{theirs}.layernorm_after.{{p}}",)),
        (f"{ours}.attn.{table}", (f"{theirs}.attention.self.{table}",)),
        (f"{ours}.attn.qkv.{{p}}", tuple(f"{theirs}.attention.self.{part}.{{p}}" for part in _QKV)),
        (f"{ours}.attn.proj.{{p}}", (f"{theirs}.attention.output.dense.{{p}}",)),
        (f"{ours}.mlp.fc1.{{p}}", (f"{theirs}.intermediate.dense.{{p}}",)),
        (f"{ours}.mlp.fc2.{{p}}", (f"{theirs}.output.dense.{{p}}",)),
        ("backbone.layers.{i}.downsample.{m}.{p}", (f"{_BACKBONE}.encoder.layers.{{i}}.downsample.{{m}}.{{p}}",)),
        *((f"backbone.norm{i}.{{p}}", (f"{_BACKBONE}.hidden_states_norms.stage{i + 1}.{{p}}",)) for i in range(4)),
    ]


def _pixel_decoder() -> list[tuple[str, tuple[str, ...]]]:
    ours, theirs = "pixel_decoder.layers.{i}", f"{_PIXEL}.encoder.layers.{{i}}"
    return [
        ("pixel_decoder.input_proj.{i}.{j}.{p}", (f"{_PIXEL}.input_projections.{{i}}.{{j}}.{{p}}",)),
        ("pixel_decoder.level_embed", (f"{_PIXEL}.level_embed",)),
        (f"{ours}.self_attn.{{m}}.{{p}}", (f"{theirs}.self_attn.{{m}}.{{p}}",)),
        (f"{ours}.norm1.{{p}}", (f"{theirs}.self_attn_layer_norm.{{p}}",)),
        (f"{ours}.linear1.{{p}}", (f"{theirs}.fc1.{{p}}",)),
        (f"{ours}.linear2.{{p}}", (f"{theirs}.fc2.{{p}}",)),
        (f"{ours}.norm2.{{p}}", (f"{theirs}.final_layer_norm.{{p}}",)),
        ("pixel_decoder.lateral.{j}.{p}", (f"{_PIXEL}.adapter_1.{{j}}.{{p}}",)),
        ("pixel_decoder.smooth.{j}.{p}", (f"{_PIXEL}.layer_1.{{j}}.{{p}}",)),
        ("pixel_decoder.mask_features.{p}", (f"{_PIXEL}.mask_projection.{{p}}",)),
    ]


def _mask_decoder() -> list[tuple[str, tuple[str, ...]]]:
    """Cross-attention is packed there as here, self-attention is split."""
    ours, theirs = "mask_decoder.layers.{i}", f"{_DECODER}.layers.{{i}}"
    return [
        ("mask_decoder.query_feat", (f"{_MODULE}.queries_features.weight",)),
        ("mask_decoder.query_embed", (f"{_MODULE}.queries_embedder.weight",)),
        ("mask_decoder.level_embed", (f"{_MODULE}.level_embed.weight",)),
        (f"{ours}.cross_attn.{{p}}", (f"{theirs}.cross_attn.{{p}}",)),
        (f"{ours}.cross_attn.out_proj.{{p}}", (f"{theirs}.cross_attn.out_proj.{{p}}",)),
        (f"{ours}.cross_norm.{{p}}", (f"{theirs}.cross_attn_layer_norm.{{p}}",)),
        *(
            (f"{ours}.self_attn.in_proj_{p}", tuple(f"{theirs}.self_attn.{part[0]}_proj.{p}" for part in _QKV))
            for p in ("weight", "bias")
        ),
        (f"{ours}.self_attn.out_proj.{{p}}", (f"{theirs}.self_attn.out_proj.{{p}}",)),
        (f"{ours}.self_norm.{{p}}", (f"{theirs}.self_attn_layer_norm.{{p}}",)),
        (f"{ours}.linear1.{{p}}", (f"{theirs}.fc1.{{p}}",)),
        (f"{ours}.linear2.{{p}}", (f"{theirs}.fc2.{{p}}",)),
        (f"{ours}.norm.{{p}}", (f"{theirs}.final_layer_norm.{{p}}",)),
        ("mask_decoder.decoder_norm.{p}", (f"{_DECODER}.layernorm.{{p}}",)),
        ("mask_decoder.class_embed.{p}", ("class_predictor.{p}",)),
        *(
            (f"mask_decoder.mask_embed.{2 * i}.{{p}}", (f"{_DECODER}.mask_predictor.mask_embedder.{i}.0.{{p}}",))
            for i in range(3)
        ),
    ]


TRANSFORMERS = Layout(
    name="transformers",
    rules=tuple(_resnet() + _swin() + _pixel_decoder() + _mask_decoder()),
    aliases=(  # in memory, from version 5 on
        (r"\.encoder\.swin\.", ".encoder."),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attention\.relative_position_bias\.", ".attention.self."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    ignored=r"criterion\..*|.*\.relative_position_index|model\.pixel_level_module\.encoder\.(swin\.)?layernorm\..*",
)
