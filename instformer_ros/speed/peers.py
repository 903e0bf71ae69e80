"""What else a user could run: the same work, done by other code with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import PIL.Image
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from instformer_ros.model.precision import find_precision
from instformer_ros.network import Network, autocast
from instformer_ros.preprocess import network_input
from instformer_ros.speed.subjects import Image, Subject
from instformer_ros.speed.timing import Series, interleave
from instformer_ros.structures import InstformerError


def compare(subject: Subject, peer: str, picture: Image, rounds: int) -> dict[str, Any]:
    """Ours and one peer in turns, on the same picture at the network's size and at the same precision.

    - *eager*: our own network as training builds it (nothing folded, channels first), proposals and tokens; on a GPU
      without graphs. *compiled*: that through ``torch.compile``.
    - *transformers*: its Mask2Former against our proposals alone; *transformers-compiled* through ``torch.compile``.
    - *crops*: every proposal cut out (its box) and put through open_clip in one batch, against one pass of InstCLIP.

    Returns:
        summaries of both and the ratio ours / theirs

    Raises:
        InstformerError: ``transformers`` is not installed, or ``torch.compile`` has no compiler here.
    """
    images = network_input([picture], subject.config, subject.device)
    network = Network(subject.copy(), subject.device, subject.precision)
    with torch.inference_mode():
        masks = network.proposals(images).mask_logits.clone()
        ours: Callable[[], object]
        if peer == "crops":
            masks = _blobs(masks)  # random weights make masks of noise, whose boxes are all the frame
            ours, theirs = lambda: network.tokens(images, masks), _crops(subject, picture, masks)
        elif peer.startswith("transformers"):
            ours, theirs = lambda: network.proposals(images), _transformers(subject, images)
        else:
            ours = lambda: network.tokens(images, network.proposals(images).mask_logits)  # noqa: E731
            theirs = _eager(subject, images)
        if peer.endswith("compiled"):
            theirs = _compiled(theirs)
        series = interleave({"ours": ours, "theirs": theirs}, rounds, subject.device)
    return report(series["ours"], series["theirs"])


def report(ours: Series, theirs: Series) -> dict[str, Any]:
    """Both, and their ratio."""
    return {"ours": ours.summary(), "theirs": theirs.summary(), "ratio": ours.ratio(theirs)}


def _eager(subject: Subject, images: Tensor) -> Callable[[], object]:
    model, dtype = subject.copy().to(subject.device), find_precision(subject.precision, subject.device)

    def run() -> object:
        with autocast(subject.device, dtype):
            return model(images)

    return run


def _compiled(run: Callable[[], object]) -> Callable[[], object]:
    """``run`` through torch.compile, which has compiled at return.

    Raises:
        InstformerError: it cannot, for want of a C++ compiler, say.
    """
    compiled = torch.compile(run)
    try:
        compiled()
    except Exception as error:  # of many kinds: its own, those of the compilers that it starts
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InstformerError(f"torch.compile does not work here: {reason}; a CPU needs g++, a GPU triton") from error
    return compiled


def _transformers(subject: Subject, images: Tensor) -> Callable[[], object]:
    model = transformers_mask2former(subject).to(subject.device)
    net, dtype = subject.network.proposals, find_precision(subject.precision, subject.device)
    mean, std = net.pixel_mean.to(subject.device), net.pixel_std.to(subject.device)

    def run() -> object:
        with autocast(subject.device, dtype):
            return model(pixel_values=(images - mean) / std)

    return run


def transformers_mask2former(subject: Subject) -> Any:
    """Their network with our weights.

    Raises:
        InstformerError: ``transformers`` is not installed, or the sizes are not ones that it is built in here.
    """
    try:
        import transformers
    except ImportError as error:
        raise InstformerError("--against transformers needs it: pip install transformers") from error
    from instformer_ros.weights.transformers import TRANSFORMERS

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = subject.config.proposals
    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    kind = transformers.SwinConfig if hasattr(config.backbone, "window") else transformers.ResNetConfig
    sizes = transformers.Mask2FormerConfig(
        backbone_config=kind(out_features=stages), num_labels=config.classes, num_queries=config.queries
    )
    weights = TRANSFORMERS.from_ours(subject.network.proposals.state_dict())
    try:
        return transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
            None, config=sizes, state_dict=weights
        ).eval()
    except RuntimeError as error:  # shapes that do not match
        raise InstformerError(
            f"transformers has no network of the sizes of {subject.config.name}; use --model r50-vitb32 or swint-vitb32"
        ) from error


def _crops(subject: Subject, picture: Image, mask_logits: Tensor) -> Callable[[], object]:
    """As users of open_clip do it: cut with PIL, its own preprocessing, one batch through ``encode_image``."""
    clip, sizes = subject.copy().instclip.clip.to(subject.device), subject.config.clip
    dtype = find_precision(subject.precision, subject.device)
    preprocess = open_clip.image_transform(clip.visual.image_size, is_train=False, mean=sizes.mean, std=sizes.std)
    height, width = mask_logits.shape[-2:]
    scale = torch.tensor([picture.shape[1] / width, picture.shape[0] / height]).repeat(2)

    def run() -> object:
        boxes = (masks_to_boxes(mask_logits[0] > 0) + torch.tensor([0, 0, 1, 1]).to(mask_logits)).cpu() * scale
        whole = PIL.Image.fromarray(picture)
        batch = torch.stack([preprocess(whole.crop(tuple(box))) for box in boxes.tolist()])
        with autocast(subject.device, dtype):
            return clip.encode_image(batch.to(subject.device), normalize=True)

    return run


def _blobs(like: Tensor) -> Tensor:
    """Mask logits of the same form, each mask one ellipse somewhere."""
    generator = torch.Generator().manual_seed(0)
    count, (height, width) = like.shape[1], like.shape[-2:]
    x, y, size = torch.rand(3, count, 1, 1, generator=generator)
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
    return (20 * (0.1 + 0.3 * size - distance))[None].to(like)
