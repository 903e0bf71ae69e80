"""What is compared: a system for each row of the paper's Tables 4-8, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from instformer_ros.model.config import Association, Classifier, Guidance, InstClipConfig, LoraPlacement, Rollout

Follower = Literal["rollout", "box-iou", "sort", "bytetrack"]


@dataclass(frozen=True)
class Adapters:
    """How InstCLIP's adapters are trained; the paper's way by default."""

    guidance: Guidance = "designed"
    register: bool = True
    register_visible: bool = False
    placement: LoraPlacement = "qv"

    @property
    def name(self) -> str:
        register = "visible" if self.register_visible else "register" if self.register else "no-register"
        return f"{self.guidance}_{register}_{self.placement}"

    def apply(self, config: InstClipConfig) -> InstClipConfig:
        """``config`` with these choices."""
        return replace(
            config,
            guidance=self.guidance,
            register=self.register,
            register_visible=self.register_visible,
            lora_placement=self.placement,
        )


@dataclass(frozen=True)
class System:
    """One way from frames to named tracks. Rows of several tables may be the same system: it is run once."""

    margin: float = 0.8  # alpha of L_SC; 1 = without it, since no cosine exceeds 1
    classifier: Classifier = "instclip"
    adapters: Adapters | None = None  # trained for this row; None = the checkpoint's (crops: frozen CLIP)
    association: Association = "query"
    rollout: Rollout = "none"
    follower: Follower = "rollout"
    mask_duplicates: bool = False  # in L_TC other queries of the same object are no negatives

    @property
    def name(self) -> str:
        """Names the system in files."""
        adapters = self.adapters.name if self.adapters else "given"
        rollout = self.rollout + ("-masked" if self.mask_duplicates else "")
        return f"a{self.margin:g}_{self.classifier}_{adapters}_{self.association}_{rollout}_{self.follower}"


@dataclass(frozen=True)
class Row:
    """A line of a table, with what the paper says (BURST AP; Table 6: UVO AR100); None = not in the paper."""

    label: str
    system: System
    paper: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper. ``compared`` holds pairs of rows, from 0: the second is set against the first."""

    number: int
    title: str
    judged: tuple[str, ...]  # scores whose differences are shown; the first one's sign is set against the paper's
    rows: tuple[Row, ...]
    compared: tuple[tuple[int, int], ...]
    columns: tuple[str, ...] = ("AP", "AP50", "naming", "IDF1", "HOTA")


_WITH_TOKEN = System(association="query+token")
_WITHOUT_REGISTER = {g: System(adapters=Adapters(g, register=False)) for g in ("none", "binary", "designed")}

TABLES: dict[int, Table] = {
    4: Table(
        4,
        "the framework, part by part",
        ("AP", "naming", "IDF1"),
        (
            Row("MinVIS-CLIP: N masked images", System(margin=1, classifier="masked-images"), 2.1),
            Row("+ InstCLIP", System(margin=1), 3.3),
            Row("+ L_SC", System(), 3.5),
            Row("+ InstCLIP token", _WITH_TOKEN, 3.9),
            Row("+ rollout tracker", System(association="query+token", rollout="rnn"), 4.2),
        ),
        ((0, 1), (1, 2), (2, 3), (3, 4)),
    ),
    5: Table(
        5,
        "InstCLIP",
        ("AP", "naming"),
        (
            Row("N masked images through CLIP", System(classifier="masked-images"), 2.11),
            Row("N masked crops through CLIP", System(classifier="masked-crops")),
            Row("N crops through CLIP", System(classifier="crops")),
            Row("instance tokens, no guidance", _WITHOUT_REGISTER["none"], 1.09),
            Row("+ binary guidance", _WITHOUT_REGISTER["binary"], 1.70),
            Row("+ designed guidance", _WITHOUT_REGISTER["designed"], 3.28),
            Row("+ register", System(adapters=Adapters()), 3.87),
            Row("+ register, visible to instances", System(adapters=Adapters(register_visible=True))),
        ),
        ((0, 3), (3, 4), (4, 5), (5, 6), (0, 6), (1, 6), (2, 6), (6, 7)),
        ("AP", "AP_base", "AP_novel", "AP_compositional", "naming"),
    ),
    6: Table(
        6,
        "margin of L_SC",
        ("AR100_agnostic", "frame_AR"),
        tuple(
            Row(f"α = {margin:g}" + (" (no loss)" if margin == 1 else ""), System(margin=margin), paper)
            for margin, paper in ((-1.0, 21.0), (0.0, 21.1), (0.5, 22.5), (0.8, 22.7), (1.0, 21.9))
        ),
        ((4, 0), (4, 1), (4, 2), (4, 3), (0, 3)),
        ("AR100_agnostic", "frame_AR", "AP", "IDF1", "HOTA"),
    ),
    7: Table(
        7,
        "rollout association",
        ("AP", "IDF1", "HOTA"),
        (
            Row("query", System(), 3.5),
            Row("query + token", _WITH_TOKEN, 3.9),
            Row("query, RNN", System(rollout="rnn"), 3.6),
            Row("query + token, RNN", System(association="query+token", rollout="rnn"), 4.2),
            Row("query + token, Linear", System(association="query+token", rollout="linear"), 3.7),
            Row("query + token, MLP", System(association="query+token", rollout="mlp"), 3.4),
            Row(
                "query + token, RNN, duplicates no negatives",
                System(association="query+token", rollout="rnn", mask_duplicates=True),
            ),
            Row("box IoU", System(follower="box-iou")),
            Row("SORT", System(follower="sort")),
            Row("ByteTrack", System(follower="bytetrack")),
        ),
        ((0, 1), (0, 2), (1, 3), (4, 3), (5, 3), (3, 6), (1, 6), (7, 1), (8, 1), (9, 1)),
    ),
    8: Table(
        8,
        "where LoRA is placed",
        ("AP", "naming"),
        (
            Row("FFN", System(adapters=Adapters(placement="ffn")), 3.5),
            Row("query, value", System(adapters=Adapters()), 3.9),
            Row("query, key, value", System(adapters=Adapters(placement="qkv")), 3.6),
            Row("FFN + query, key, value", System(adapters=Adapters(placement="ffn+qkv")), 3.7),
        ),
        ((0, 1), (2, 1), (3, 1)),
        ("AP", "AP_base", "AP_novel", "AP_compositional", "naming"),
    ),
}
