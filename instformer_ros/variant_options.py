"""Command line options of the paper's baselines, for every program that scores or times a model.

Only argparse is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instformer_ros.model.variants import Variant

CLASSIFIERS = ("instclip", "masked-images", "masked-crops", "crops")
GUIDANCE = ("designed", "binary", "none")
ASSOCIATIONS = ("query+token", "query")
ROLLOUTS = ("rnn", "linear", "mlp", "none")


def add_variant_options(parser: argparse.ArgumentParser) -> None:
    """Adds one option for each part of the model that may differ from the checkpoint's."""
    group = parser.add_argument_group("baselines", "parts of the model; what is not given is as in the checkpoint")
    group.add_argument(
        "--classifier",
        choices=CLASSIFIERS,
        help="instclip, or one pass of frozen CLIP an instance: on masked whole frames (MinVIS-CLIP), on crops with or "
        "without what surrounds it",
    )
    group.add_argument("--guidance", choices=GUIDANCE, help="of InstCLIP's instance tokens")
    group.add_argument(
        "--register-visible", action=argparse.BooleanOptionalAction, help="may instance tokens attend to the register?"
    )
    group.add_argument("--association", choices=ASSOCIATIONS, help="what tracks are matched by; 'query': no tokens")
    group.add_argument("--rollout", choices=ROLLOUTS, help="rollout tracker; 'none' = plain cosine matching")


def variant_of(options: argparse.Namespace) -> Variant:
    """The variant that :func:`add_variant_options`'s options ask for."""
    from instformer_ros.model.variants import Variant

    return Variant(**describe(options))


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as they are written down beside results."""
    names = ("classifier", "guidance", "register_visible", "association", "rollout")
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}
