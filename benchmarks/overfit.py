"""Over-fitting test: stages 1 and 2 on a few real clips must give their masks back. Minutes to an hour; not in CI.

The clips are made on the fly: four DAVIS-2016 sequences tiled 2×2, and COCO objects cut out and moved over real
pictures. Training starts from the embedded model's weights, which have seen nothing but generated shapes. InstCLIP's
adapters are left as they are: the embedded text tower does not know these objects' names.

    python benchmarks/overfit.py --data ../shared/data --output runs/overfit --threads 1
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instformer_ros.data.cutouts import CutoutVideo
from instformer_ros.data.panoptic import read_panoptic
from instformer_ros.data.tiled import TiledVideo
from instformer_ros.data.videos import Video
from instformer_ros.engine import Engine
from instformer_ros.evaluation import tracking
from instformer_ros.evaluation.tracking import FrameObjects, TrackingVideo, mask_iou
from instformer_ros.masks import encode_many
from instformer_ros.paths import model_path
from instformer_ros.settings import Settings
from instformer_ros.training.frames import Frame, FrameBatch, collate
from instformer_ros.training.loop import Schedule, Session, run_stage
from instformer_ros.training.runtime import keep_memory
from instformer_ros.training.stage1 import ProposalOptions, ProposalStage
from instformer_ros.training.stage2 import RolloutStage
from instformer_ros.training.team import Team, join
from instformer_ros.training.tokens import ClipBatches, extract
from instformer_ros.weights import checkpoint

HEIGHT, WIDTH, FRAMES = 192, 256, 12
BATCH = 4
LEAST_PIXELS = 12  # of an object that counts as visible

Clip = list[tuple[Any, Any]]  # frames: (H, W, 3) uint8 RGB and (K, H, W) bool


def clips(data: Path) -> list[Clip]:
    """The training clips: the tiled one and two of cut-outs."""
    stills = read_panoptic(data / "coco_ccby/panoptic_val2017.json", data / "coco_ccby/val2017")
    tiled = TiledVideo(data / "davis2016", ("blackswan", "car-shadow", "dog", "libby"), HEIGHT, WIDTH)
    videos: list[Video] = [tiled, *(CutoutVideo(stills, seed, HEIGHT, WIDTH, 3 * FRAMES) for seed in (0, 1))]
    return [[video.frame(t) for t in range(0, 3 * FRAMES, 3)] for video in videos]


class Frames:
    """Batches of the clips' frames, mirrored half the time, by the number of the batch."""

    def __init__(self, videos: list[Clip]) -> None:
        self._frames = [frame for clip in videos for frame in clip]

    def __call__(self, number: int) -> FrameBatch:
        rng = np.random.default_rng([1, number])
        chosen = [self._frames[int(i)] for i in rng.choice(len(self._frames), BATCH, replace=False)]
        frames = []
        for image, masks in chosen:
            masks = masks[masks.sum((1, 2)) >= LEAST_PIXELS]
            if rng.random() < 0.5:
                image, masks = image[:, ::-1], masks[..., ::-1]
            frames.append(Frame(image, masks, [0] * len(masks)))
        return collate(frames)


def measure(engine: Engine, videos: list[Clip]) -> dict[str, float]:
    """Mean over all visible objects and frames of the IoU with the best published mask; HOTA and IDF1 beside it."""
    best, tracks = [], []
    for clip in videos:
        engine.reset()
        truth, found = [], []
        for image, masks in clip:
            frame = engine.step({"clip": image})["clip"]
            there, seen = FrameObjects(), FrameObjects()
            for k, rle in enumerate(encode_many(masks)):
                if masks[k].sum() >= LEAST_PIXELS:
                    there.add(k, rle)
            for instance in frame.instances:
                seen.add(instance.track_id, instance.rle)
            best += np.max(mask_iou(there.masks, seen.masks), axis=1, initial=0.0).tolist()
            truth.append(there)
            found.append(seen)
        tracks.append(TrackingVideo(truth, found))
    scores = tracking.score(tracks)
    return {"best_mask_iou": float(np.mean(best)), "objects": len(best), "HOTA": scores["HOTA"], "IDF1": scores["IDF1"]}


def train(videos: list[Clip], folder: Path, steps: int, team: Team) -> Engine:
    """Both stages; resumes where it was interrupted."""
    model = checkpoint.load(model_path("toyvis")).to(team.device)
    session = Session(folder, team, workers=0)
    schedule = Schedule(steps, 5e-4, warmup=min(100, steps // 5), clip=0.1)
    stage = ProposalStage(model.proposals, ProposalOptions(points=2048))
    run_stage("proposals", stage, lambda: Frames(videos), schedule, session)
    files = extract(model, len(videos), lambda n: videos[n], folder / "tokens", team)
    rollout = Schedule(200, 1e-4, warmup=20, clip=1.0)
    run_stage("rollout", RolloutStage(model.rollout), lambda: ClipBatches(files, 16, 0), rollout, session, workers=0)
    settings = Settings(score_threshold=0.0, objectness_threshold=0.5, keep_threshold=0.3)
    return Engine(model.eval(), team.device, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds davis2016/ and coco_ccby/")
    parser.add_argument("--output", type=Path, default=Path("runs/overfit"), help="folder for progress and scores")
    parser.add_argument("--steps", type=int, default=1500, help="of stage 1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory()
    started = time.monotonic()
    videos = clips(options.data)
    with join("auto") as team:
        scores = measure(train(videos, options.output, options.steps, team), videos)
    scores |= {"steps": options.steps, "seconds": round(time.monotonic() - started)}
    print(json.dumps(scores, indent=1))
    (options.output / "overfit.json").write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
