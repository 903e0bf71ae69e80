"""Mask2Former as detectron2 keeps it (github.com/facebookresearch/Mask2Former): names of the arrays.

The public files are pickles of numpy arrays (``model_final_*.pkl``), or PyTorch files from a training of one's own.
"""

from __future__ import annotations

from instformer_ros.weights.layout import Layout

_HEAD, _PIXEL, _DECODER = "sem_seg_head", "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"

_RESNET = (
    ("backbone.conv1.{p}", "backbone.stem.conv1.{p}"),
    ("backbone.bn1.{p}", "backbone.stem.conv1.norm.{p}"),
    *(
        rule
        for stage in (1, 2, 3, 4)
        for rule in (
            (f"backbone.layer{stage}.{{b}}.conv{{c}}.{{p}}", f"backbone.res{stage + 1}.{{b}}.conv{{c}}.{{p}}"),
            (f"backbone.layer{stage}.{{b}}.bn{{c}}.{{p}}", f"backbone.res{stage + 1}.{{b}}.conv{{c}}.norm.{{p}}"),
            (f"backbone.layer{stage}.{{b}}.downsample.0.{{p}}", f"backbone.res{stage + 1}.{{b}}.shortcut.{{p}}"),
            (f"backbone.layer{stage}.{{b}}.downsample.1.{{p}}", f"backbone.res{stage + 1}.{{b}}.shortcut.norm.{{p}}"),
        )
    ),
)
_SWIN = tuple(  # the authors' own names on both sides
    (key, key)
    for key in (
        "backbone.patch_embed.{m}.{p}",
        "backbone.layers.{i}.blocks.{j}.{m}.{p}",
        "backbone.layers.{i}.blocks.{j}.{m}.{n}.{p}",
        "backbone.layers.{i}.downsample.{m}.{p}",
        *(f"backbone.norm{i}.{{p}}" for i in range(4)),
    )
)
_PIXEL_DECODER = (
    ("pixel_decoder.input_proj.{i}.{j}.{p}", f"{_PIXEL}.input_proj.{{i}}.{{j}}.{{p}}"),
    ("pixel_decoder.level_embed", f"{_PIXEL}.transformer.level_embed"),
    ("pixel_decoder.layers.{i}.{m}.{p}", f"{_PIXEL}.transformer.encoder.layers.{{i}}.{{m}}.{{p}}"),
    ("pixel_decoder.layers.{i}.self_attn.{m}.{p}", f"{_PIXEL}.transformer.encoder.layers.{{i}}.self_attn.{{m}}.{{p}}"),
    ("pixel_decoder.lateral.0.{p}", f"{_PIXEL}.adapter_1.{{p}}"),
    ("pixel_decoder.lateral.1.{p}", f"{_PIXEL}.adapter_1.norm.{{p}}"),
    ("pixel_decoder.smooth.0.{p}", f"{_PIXEL}.layer_1.{{p}}"),
    ("pixel_decoder.smooth.1.{p}", f"{_PIXEL}.layer_1.norm.{{p}}"),
    ("pixel_decoder.mask_features.{p}", f"{_PIXEL}.mask_features.{{p}}"),
)


def _decoder_layer(ours: str, theirs: str) -> tuple[str, str]:
    return f"mask_decoder.layers.{{i}}.{ours}", f"{_DECODER}.{theirs}"


_MASK_DECODER = (
    *((f"mask_decoder.{e}", f"{_DECODER}.{e}.weight") for e in ("query_feat", "query_embed", "level_embed")),
    _decoder_layer("cross_attn.{p}", "transformer_cross_attention_layers.{i}.multihead_attn.{p}"),
    _decoder_layer("cross_attn.out_proj.{p}", "transformer_cross_attention_layers.{i}.multihead_attn.out_proj.{p}"),
    _decoder_layer("cross_norm.{p}", "transformer_cross_attention_layers.{i}.norm.{p}"),
    _decoder_layer("self_attn.{p}", "transformer_self_attention_layers.{i}.self_attn.{p}"),
    _decoder_layer("self_attn.out_proj.{p}", "transformer_self_attention_layers.{i}.self_attn.out_proj.{p}"),
    _decoder_layer("self_norm.{p}", "transformer_self_attention_layers.{i}.norm.{p}"),
    *(_decoder_layer(f"{m}.{{p}}", f"transformer_ffn_layers.{{i}}.{m}.{{p}}") for m in ("linear1", "linear2", "norm")),
    ("mask_decoder.decoder_norm.{p}", f"{_DECODER}.decoder_norm.{{p}}"),
    ("mask_decoder.class_embed.{p}", f"{_DECODER}.class_embed.{{p}}"),
    *((f"mask_decoder.mask_embed.{2 * i}.{{p}}", f"{_DECODER}.mask_embed.layers.{i}.{{p}}") for i in range(3)),
)

DETECTRON2 = Layout(
    name="detectron2",
    rules=tuple((ours, (theirs,)) for ours, theirs in (*_RESNET, *_SWIN, *_PIXEL_DECODER, *_MASK_DECODER)),
    aliases=(  # files of before version 2 of the head
        (rf"^{_HEAD}\.(?!pixel_decoder\.|predictor\.)", f"{_PIXEL}."),
        (r"\.static_query\.", ".query_feat."),
    ),
    ignored=r"criterion\..*|pixel_(mean|std)|.*\.relative_position_index",
)
