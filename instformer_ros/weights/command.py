"""``instformer weights build | pull | show``: options and actions. Torch comes when something is done."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Fills in the parser of ``instformer weights``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make a checkpoint from public weights, offline")
    build.description = "Public Mask2Former and CLIP weights become one checkpoint. Nothing in them is executed."
    build.add_argument(
        "--proposals", required=True, type=Path, metavar="FILE", help="Mask2Former of detectron2 or transformers"
    )
    build.add_argument(
        "--clip",
        required=True,
        metavar="ARCH:TAG:FILE",
        help="open_clip's names and a local file; ARCH:TAG: the hub's cache; ARCH:FILE: where no tag is needed",
    )
    build.add_argument("--lora", type=Path, metavar="FILE", help="checkpoint whose trained InstCLIP is taken")
    build.add_argument("--tracker", type=Path, metavar="FILE", help="checkpoint whose trained rollout tracker is taken")
    for part in ("proposals", "clip"):
        build.add_argument(f"--{part}-licence", metavar="TEXT", help="written into the checkpoint")
    build.add_argument("--output", required=True, type=Path, metavar="FILE.safetensors")
    build.set_defaults(run=_build)
    pull = actions.add_parser("pull", help="download public weights and make a checkpoint of them")
    pull.description = "Nothing else of this package downloads. The checkpoint then goes by its name: --model NAME."
    pull.add_argument("name", metavar="NAME", help="r50-vitb32, r50-vitb16 or swint-vitb32")
    pull.add_argument("--folder", type=Path, metavar="DIR", help="for all files (default: where --model looks)")
    pull.set_defaults(run=_pull)
    show = actions.add_parser("show", help="print a checkpoint's sizes, licences and origins")
    show.add_argument("file", metavar="FILE", help="a checkpoint, or the name of an embedded one")
    show.set_defaults(run=_show)


def _build(options: argparse.Namespace) -> int:
    from instformer_ros.weights.build import Parts, build
    from instformer_ros.weights.show import describe

    told = {"proposals": options.proposals_licence, "clip": options.clip_licence}
    licences = {part: text for part, text in told.items() if text}
    build(Parts(options.proposals, options.clip, options.lora, options.tracker, licences), options.output)
    print(describe(options.output))
    return 0


def _pull(options: argparse.Namespace) -> int:
    from instformer_ros.paths import pulled_models_directory
    from instformer_ros.weights.pull import pull, recipe

    chosen = recipe(options.name)
    output, sums = pull(options.name, options.folder or pulled_models_directory(), chosen)
    for name, digest in sums.items():
        print(f"{digest}  {name}")
    print(f"{output}: made of these, whose licences hold: {chosen.proposals.licence}; {chosen.clip.licence}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from instformer_ros.paths import find_model
    from instformer_ros.weights.show import describe

    print(describe(find_model(options.file)))
    return 0
