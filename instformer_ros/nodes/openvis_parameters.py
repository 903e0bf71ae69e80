"""The parameters of the openvis node."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from instformer_ros.model.precision import PRECISIONS
from instformer_ros.model.vocabulary import validate_names
from instformer_ros.nodes.inputs import TRANSPORTS
from instformer_ros.ros.parameters import Spec, Table, When
from instformer_ros.ros.qos import RELIABILITIES
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError

_DEFAULTS = Settings()
SETTINGS = tuple(field.name for field in fields(Settings))  # parameters of these names are the engine's settings
_CAMERA = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


def camera_names(names: Sequence[str]) -> list[str]:
    """The named cameras, none for ``['']``. Raises InstformerError for what is no ROS name or comes twice."""
    named = [name.strip() for name in names if name.strip()]
    for name in named:
        if not _CAMERA.fullmatch(name):
            raise InstformerError(f"camera '{name}' is no ROS name: use letters, digits and underscores, as in 'front'")
        if named.count(name) > 1:
            raise InstformerError(f"camera '{name}' is named twice: name each camera once")
    return named


def _threshold(name: str, least: float, description: str) -> Spec:
    return Spec(name, float(getattr(_DEFAULTS, name)), description, least=least, most=1.0)


PARAMETERS = Table(
    [
        Spec("autostart", True, "configure and activate the node by itself when it starts", When.START),
        Spec("model", "toyvis", "the checkpoint: 'toyvis' (embedded) or a path", When.CONFIGURE),
        Spec("device", "auto", "where the model runs: auto, cpu, cuda or cuda:N", When.CONFIGURE),
        Spec(
            "precision",
            "auto",
            "what the network computes in; auto is bf16 on GPUs that have it, else fp32",
            When.CONFIGURE,
            choices=PRECISIONS,
        ),
        Spec(
            "threads",
            0,
            "threads that the network uses on a CPU; 0 for one fewer than there are cores",
            When.CONFIGURE,
            least=0,
            most=1024,
        ),
        Spec(
            "cameras",
            [""],
            "names of several cameras, each with its own tracks: NAME/image in, ~/NAME/instances out; [''] for the "
            "single 'image' and '~/instances'",
            When.CONFIGURE,
            check=camera_names,
        ),
        Spec(
            "vocabulary",
            [""],
            "the words that instances are named with; [''] tracks everything, unnamed",
            check=validate_names,
        ),
        _threshold("score_threshold", 0.0, "least score (class x objectness) of a published instance"),
        _threshold("objectness_threshold", 0.0, "least objectness for a track to be born"),
        _threshold("keep_threshold", 0.0, "least objectness for a proposal to continue a track"),
        _threshold("match_threshold", -1.0, "least similarity (cosine) for a proposal to continue a track"),
        _threshold(
            "duplicate_threshold", 0.0, "drop a proposal whose mask overlaps a better one's by this IoU; 1 for never"
        ),
        Spec("max_coast", _DEFAULTS.max_coast, "frames that a track is kept unseen", least=0, most=100000),
        Spec("max_instances", _DEFAULTS.max_instances, "most instances published for an image", least=1, most=1000),
        Spec(
            "life_cycle",
            _DEFAULTS.life_cycle,
            "how tracks live: 'managed' (born, coasting, ended) or 'slots' (a fixed set, as in the paper)",
            choices=("managed", "slots"),
        ),
        Spec("negatives", _DEFAULTS.negatives, "let unpublished other words compete, so that strangers stay unnamed"),
        Spec("class_scores", _DEFAULTS.class_scores, "publish the scores of all words with every instance"),
        Spec("publish_masks", True, "publish masks; without them the messages hold boxes only"),
        Spec("overlay_opacity", 0.3, "how strongly ~/overlay tints the masks", least=0.0, most=1.0),
        Spec(
            "image_reliability",
            "auto",
            "reliability to subscribe to images with; auto suits the publishers",
            choices=RELIABILITIES,
        ),
        Spec(
            "image_transport",
            "raw",
            "how images come: 'raw' on the image topic, or 'compressed' (JPEG, PNG) on <image>/compressed",
            When.CONFIGURE,
            choices=TRANSPORTS,
        ),
        Spec(
            "use_depth",
            False,
            "take 'depth', registered to the image, and 'camera_info' along with every image, for 3D outputs",
            When.CONFIGURE,
        ),
        Spec(
            "target_frame",
            "",
            "frame of the 3D outputs (markers, points, 3D detections), through tf2, with z up; '' for the camera's own",
            When.CONFIGURE,
        ),
        Spec(
            "depth_slop",
            0.02,
            "most seconds between the stamps of an image and its depth; needs message_filters, else they must be equal",
            When.CONFIGURE,
            least=0.0,
            most=1.0,
        ),
        Spec(
            "round_wait",
            0.02,
            "most seconds that the images of several cameras wait for each other, so that one pass takes them all",
            least=0.0,
            most=1.0,
        ),
        Spec("latency_warn", 1.0, "seconds from stamp to result that are a warning", least=0.0, most=3600.0),
        Spec("latency_error", 5.0, "seconds from stamp to result that are an error", least=0.0, most=3600.0),
        Spec("rate_warn", 0.0, "results a second below which there is a warning; 0 for never", least=0.0, most=1000.0),
        Spec("rate_error", 0.0, "results a second below which there is an error; 0 for never", least=0.0, most=1000.0),
        Spec("drop_warn", 1.0, "share of images without a result that is a warning; 1 for never", least=0.0, most=1.0),
        Spec("drop_error", 1.0, "share of images without a result that is an error; 1 for never", least=0.0, most=1.0),
        Spec("report_interval", 10.0, "seconds between reports of dropped frames; 0 for none", least=0.0, most=3600.0),
    ]
)
