"""How far a precision is from fp32, how fast it is and what memory it takes, on any device:

    python benchmarks/precision.py --model r50-vitb32 --device cuda --source street.mp4 --frames 50

Both see the same frames. Masks and tokens are compared where fp32 sees an object.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from instformer_ros.data.sources import open_source
from instformer_ros.devices import find_device
from instformer_ros.network import Network
from instformer_ros.paths import model_path
from instformer_ros.preprocess import network_input
from instformer_ros.structures import Proposals
from instformer_ros.weights import checkpoint

_WARM_UP = 3  # frames that do not count
_OBJECT = 0.5  # objectness from which a proposal is one; the ten best where none is


def run(options: argparse.Namespace, precision: str) -> tuple[list[tuple[Proposals, torch.Tensor]], str]:
    """Proposals and tokens of all frames, on the CPU, and a line on speed and memory."""
    path = Path(options.model) if "/" in options.model else model_path(options.model)
    device = find_device(options.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = checkpoint.load(path)
    config, network = model.config, Network(model, device, precision)
    answers, seconds = [], 0.0
    with torch.inference_mode(), open_source(options.source, options.frames + _WARM_UP) as source:
        for i, image in enumerate(source):
            batch = network_input([image], config, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i == _WARM_UP:
                seconds = 0.0
            start = time.perf_counter()
            seen = network.proposals(batch)
            tokens = network.tokens(batch, seen.mask_logits)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - start
            answers.append(
                (Proposals(seen.queries.cpu(), seen.objectness.cpu(), seen.mask_logits.cpu()), tokens.clone().cpu())
            )
    counted = len(answers) - _WARM_UP
    if counted < 1:
        raise SystemExit(f"{options.source} has too few frames: {len(answers)}")
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at most" if device.type == "cuda" else ""
    return answers, f"{precision}: {counted / seconds:.2f} frames a second on {device}{memory}"


def compare(reference: tuple[Proposals, torch.Tensor], other: tuple[Proposals, torch.Tensor]) -> torch.Tensor:
    """(mean mask IoU, least token cosine, mean token cosine, largest difference of objectness) of one frame."""
    (seen, tokens), (seen_too, tokens_too) = reference, other
    objectness = seen.objectness[0]
    rows = (objectness >= _OBJECT).nonzero()[:, 0]
    if not len(rows):
        rows = objectness.topk(min(10, len(objectness))).indices
    first, second = (p.mask_logits[0, rows].flatten(1) > 0 for p in (seen, seen_too))
    union = (first | second).sum(1)
    iou = torch.where(union > 0, (first & second).sum(1) / union.clamp(min=1), 1.0)
    cosine = F.cosine_similarity(tokens[0, rows], tokens_too[0, rows], dim=-1)
    difference = (objectness - seen_too.objectness[0]).abs().max()
    return torch.stack([iou.mean(), cosine.min(), cosine.mean(), difference])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toyvis", help="name or path/to/checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--source", default="toyvis:1")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp16"))
    options = parser.parse_args()
    reference, line = run(options, "fp32")
    print(line)
    lower, line = run(options, options.precision)
    print(line)
    rows = torch.stack([compare(a, b) for a, b in zip(reference, lower, strict=True)])
    print(f"{options.precision} against fp32, {len(rows)} frames:")
    print(f"  mask IoU         mean {rows[:, 0].mean():.4f}, worst frame {rows[:, 0].min():.4f}")
    print(f"  token cosine     mean {rows[:, 2].mean():.4f}, least {rows[:, 1].min():.4f}")
    print(f"  objectness       largest difference {rows[:, 3].max():.4f}")


if __name__ == "__main__":
    main()
