"""Sizes of the model. The embedded model and the paper's own are the same code with another :class:`ModelConfig`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from instformer_ros.structures import InstformerError

Guidance = Literal["designed", "binary", "none"]
LoraPlacement = Literal["qv", "qkv", "ffn", "ffn+qkv"]
Classifier = Literal["instclip", "masked-images", "masked-crops", "crops"]
Association = Literal["query+token", "query"]
Rollout = Literal["rnn", "linear", "mlp", "none"]


@dataclass(frozen=True)
class BackboneConfig:
    """A ResNet (He et al. 2016); strides 4, 8, 16, 32."""

    block: Literal["basic", "bottleneck"] = "bottleneck"
    stem: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels of the four stages
    depths: tuple[int, ...] = (3, 4, 6, 3)
    frozen_norm: bool = False  # batch statistics and scales stay as pre-trained, as Mask2Former's ResNet has it
    kind: Literal["resnet"] = "resnet"


@dataclass(frozen=True)
class SwinConfig:
    """A Swin transformer (Liu et al. 2021) with patches of 4; strides 4, 8, 16, 32."""

    width: int = 96  # of the first stage; every further one has twice as many channels
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7  # side of an attention window, in tokens
    kind: Literal["swin"] = "swin"


_BACKBONES: dict[str, type[BackboneConfig] | type[SwinConfig]] = {"resnet": BackboneConfig, "swin": SwinConfig}


@dataclass(frozen=True)
class ProposalConfig:
    """Mask2Former (Cheng et al. 2022), class-agnostic by default."""

    backbone: BackboneConfig | SwinConfig = field(default_factory=BackboneConfig)
    queries: int = 100
    width: int = 256
    heads: int = 8
    points: int = 4  # deformable sampling points for each head and level
    encoder_layers: int = 6
    encoder_feedforward: int = 1024
    decoder_layers: int = 9
    decoder_feedforward: int = 2048
    classes: int = 1  # without "no object"
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, 0-255
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ClipConfig:
    """Which CLIP, in open_clip's terms: a registered ``architecture``, or an open_clip model config given whole."""

    architecture: str = "ViT-B-32"
    model: dict[str, Any] | None = None  # open_clip model config (embed_dim, vision_cfg, text_cfg); None = registered
    quick_gelu: bool = False
    tokens: tuple[int, ...] | None = None  # token ids whose rows the text tower keeps, ascending; None = all
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class InstClipConfig:
    """Instance guidance attention (paper Sec. 4.2)."""

    guidance: Guidance = "designed"
    scale: float = 1.0
    clamp: float = 10.0
    shift: bool = False  # subtract max B_i, so that a full mask equals plain CLIP
    register: bool = True  # False: nobody attends to the register, as if there were none (paper Tab. 5, lines 2-4)
    register_visible: bool = False  # may instance tokens attend to the register?
    lora_rank: int = 8  # 0 = no LoRA
    lora_alpha: float = 16.0
    lora_placement: LoraPlacement = "qv"  # which weights of a block are adapted (paper Tab. 8)


@dataclass(frozen=True)
class RolloutConfig:
    """Rollout tracker (paper Sec. 4.3)."""

    kind: Rollout = "rnn"
    association: Association = "query+token"  # what a tracking token is made of (paper Tab. 7)
    normalise_halves: bool = True  # L2-normalise query and instance token before concatenation


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the network of a checkpoint."""

    name: str = "r50-vitb32"
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    instclip: InstClipConfig = field(default_factory=InstClipConfig)
    classifier: Classifier = "instclip"  # the others: the paper's baselines, see model/crops.py
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    short_side: int = 480  # frames are resized so that their short side has this many pixels
    long_side: int = 864  # ... unless the long side would exceed this
    negatives: tuple[str, ...] = ()  # texts that compete with a live vocabulary but are never published

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; :meth:`from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Builds a config from :meth:`to_dict`'s dictionary.

        Raises:
            InstformerError: a key is unknown or a value has the wrong form; the message names it.
        """
        try:
            data = dict(data)
            proposals = dict(data.pop("proposals"))
            backbone = _tuples(proposals.pop("backbone"))
            kind = backbone.get("kind", "resnet")
            if kind not in _BACKBONES:
                raise InstformerError(f"model config: backbone '{kind}'; use one of {', '.join(_BACKBONES)}")
            config = cls(
                proposals=ProposalConfig(backbone=_BACKBONES[kind](**backbone), **_tuples(proposals)),
                clip=ClipConfig(**_tuples(data.pop("clip"))),
                instclip=InstClipConfig(**data.pop("instclip")),
                rollout=RolloutConfig(**data.pop("rollout")),
                **_tuples(data),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InstformerError(f"model config: {error}; rebuild the checkpoint with this version") from error
        for name, value, choices in (
            ("guidance", config.instclip.guidance, Guidance),
            ("lora_placement", config.instclip.lora_placement, LoraPlacement),
            ("classifier", config.classifier, Classifier),
            ("association", config.rollout.association, Association),
            ("rollout", config.rollout.kind, Rollout),
        ):
            if value not in get_args(choices):
                raise InstformerError(f"model config: {name} '{value}'; use one of {get_args(choices)}")
        return config


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON knows only lists; the frozen dataclasses hold tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


_R50 = BackboneConfig(frozen_norm=True)
PRESETS: dict[str, ModelConfig] = {  # the first is the paper's own; CLIP with the weights that OpenAI published
    "r50-vitb32": ModelConfig("r50-vitb32", ProposalConfig(_R50), ClipConfig("ViT-B-32", quick_gelu=True)),
    "r50-vitb16": ModelConfig("r50-vitb16", ProposalConfig(_R50), ClipConfig("ViT-B-16", quick_gelu=True)),
    "swint-vitb32": ModelConfig("swint-vitb32", ProposalConfig(SwinConfig()), ClipConfig("ViT-B-32", quick_gelu=True)),
}


def preset(name: str) -> ModelConfig:
    """Sizes by name.

    Raises:
        InstformerError: there is no such preset; names those that there are.
    """
    if name not in PRESETS:
        raise InstformerError(f"no preset is called '{name}'; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def toyvis_config(tokens: tuple[int, ...], negatives: tuple[str, ...] = ()) -> ModelConfig:
    """The embedded model: the paper's design at a size that trains from nothing on a CPU.

    Args:
        tokens: token ids that the text tower keeps, as :func:`instformer_ros.model.clip.tokens_of` gives them.
        negatives: texts that compete with a live vocabulary.
    """
    return ModelConfig(
        name="toyvis",
        proposals=ProposalConfig(
            backbone=BackboneConfig(block="basic", stem=32, widths=(32, 64, 96, 128), depths=(1, 1, 1, 1)),
            queries=20,
            width=64,
            heads=4,
            encoder_layers=2,
            encoder_feedforward=128,
            decoder_layers=3,
            decoder_feedforward=128,
        ),
        clip=ClipConfig(
            architecture="toyvis-ViT-8",
            model={
                "embed_dim": 128,
                "vision_cfg": {
                    "image_size": [192, 256],
                    "layers": 4,
                    "width": 128,
                    "head_width": 32,
                    "patch_size": 8,
                },
                "text_cfg": {
                    "context_length": 32,
                    "vocab_size": len(tokens) + 1,  # and the fallback
                    "width": 128,
                    "heads": 4,
                    "layers": 2,
                },
            },
            tokens=tokens,
        ),
        instclip=InstClipConfig(lora_rank=16, lora_alpha=32.0),
        short_side=192,
        long_side=384,
        negatives=negatives,
    )
