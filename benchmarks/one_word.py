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
from instformer_ros.data.toyvis import ALL_NAMES, ToyVideo, split_of
from instformer_ros.engine import Engine
from instformer_ros.evaluation.toyvis_run import video_seeds

_OVERLAP = 0.5  # IoU of a published mask with an object


def published(engine: Engine, video: ToyVideo, word: str) -> tuple[list[int], list[int]]:
    """For every object of ``video``: frames it is visible in, and frames in which it is published under ``word``."""
    engine.reset()
    engine.set_vocabulary([word])
    visible, named = [0] * len(video.names), [0] * len(video.names)
    for image, truth in video:
        found = [masks.decode(i.rle) for i in engine.step({"": image})[""].instances]
        for k, mask in enumerate(truth):
            if not mask.any():
                continue
            visible[k] += 1
            overlaps = [(mask & other).sum() / max(1, (mask | other).sum()) for other in found]
            named[k] += bool(overlaps) and max(overlaps) >= _OVERLAP
    return visible, named


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toyvis")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--videos", type=int, default=20)
    options = parser.parse_args()
    engine = Engine.load(options.model, options.device)
    for negatives in (True, False):
        engine.settings = replace(engine.settings, negatives=negatives)
        own: list[bool] = []
        others: dict[str, list[bool]] = {}
        for seed in tqdm(video_seeds(options.seed, options.videos), desc=f"negatives {'on' if negatives else 'off'}"):
            video = ToyVideo(seed)
            rng = np.random.default_rng(seed)
            absent = [name for name in ALL_NAMES if name not in video.names]
            for word in (str(rng.choice(video.names)), str(rng.choice(absent))):  # one that is there, one that is not
                for name, visible, named in zip(video.names, *published(engine, video, word), strict=True):
                    is_published = named >= visible / 2  # in at least half of the frames that show it
                    if name == word:
                        own.append(is_published)
                    else:
                        others.setdefault(split_of(name), []).append(is_published)
        strangers = [value for values in others.values() for value in values]
        print(f"negatives {'on' if negatives else 'off'}:")
        print(f"  objects of the word itself that are published: {np.mean(own):.1%} of {len(own)}")
        print(f"  objects of other classes that are not published: {1 - np.mean(strangers):.1%} of {len(strangers)}")
        for split, values in sorted(others.items()):
            print(f"    {split}: {1 - np.mean(values):.1%} of {len(values)}")


if __name__ == "__main__":
    main()
