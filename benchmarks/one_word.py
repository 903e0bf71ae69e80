"""What a live vocabulary of a single word names, and what it leaves alone.

A softmax over one word is always 1; only the unpublished negatives keep "red striped star" from naming everything. For
every ToyVIS video this runs the engine with its live defaults once for each word asked, and counts the objects that the
node would publish under it:

    python benchmarks/one_word.py --videos 20 --seed 1
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from instformer_ros import masks
from instformer_ros.data.toyvis import ALL_NAMES, ToyVideo
from instformer_ros.engine import Engine
from instformer_ros.evaluation.toyvis_run import video_seeds

_OVERLAP = 0.5  # IoU of a published mask with an object


def best_scores(engine: Engine, video: ToyVideo, word: str) -> list[list[float]]:
    """For every object and every frame that shows it: the best score of ``word`` on its mask, 0 for none."""
    engine.reset()
    engine.set_vocabulary([word])
    scores: list[list[float]] = [[] for _ in video.names]
    for image, truth in video:
        found = engine.step({"": image})[""].instances
        shapes = [masks.decode(i.rle) for i in found]
        for k, mask in enumerate(truth):
            if mask.any():
                overlaps = [(mask & other).sum() / max(1, (mask | other).sum()) for other in shapes]
                hits = [i.score for i, overlap in zip(found, overlaps, strict=True) if overlap >= _OVERLAP]
                scores[k].append(max(hits, default=0.0))
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toyvis")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument(
        "--words", type=int, default=2, help="of each video: so many that it shows and that it does not"
    )
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.05, 0.1, 0.15, 0.2, 0.3])
    options = parser.parse_args()
    engine = Engine.load(options.model, options.device)
    print("score_threshold | of the word itself, published | of other classes, not published")
    for negatives in (True, False):
        engine.settings = replace(engine.settings, negatives=negatives, score_threshold=0.0)
        own: list[list[float]] = []
        others: list[list[float]] = []
        for seed in tqdm(video_seeds(options.seed, options.videos), desc=f"negatives {'on' if negatives else 'off'}"):
            video = ToyVideo(seed)
            rng = np.random.default_rng(seed)
            shown = sorted(set(video.names))
            absent = [name for name in ALL_NAMES if name not in shown]
            for word in (
                *rng.choice(shown, min(options.words, len(shown)), replace=False),
                *rng.choice(absent, options.words, replace=False),
            ):
                for name, scores in zip(video.names, best_scores(engine, video, str(word)), strict=True):
                    (own if name == word else others).append(scores)
        print(f"negatives {'on' if negatives else 'off'}: {len(own)} objects of the word, {len(others)} others")
        for threshold in options.thresholds:
            print(f"  {threshold:15.2f} | {_share(own, threshold):.1%} | {1 - _share(others, threshold):.1%}")


def _share(objects: list[list[float]], threshold: float) -> float:
    """Share of the objects that are published in at least half of the frames that show them."""
    return float(np.mean([np.mean(np.array(scores) >= threshold) >= 0.5 for scores in objects if scores]))


if __name__ == "__main__":
    main()
