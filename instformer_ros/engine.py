"""The one façade: load → set_vocabulary → step({camera: image}) → {camera: TrackedFrame}.

:meth:`Engine.begin` is the part of a step that needs the network: its frames are finished beside the next one.
Serves the node, the command line and the evaluation. Knows no ROS.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros import masks as rle
from instformer_ros.answers import Naming, PendingFrame
from instformer_ros.devices import device_errors, find_device
from instformer_ros.given_masks import replace_masks
from instformer_ros.kept_masks import KeptMasks
from instformer_ros.live_vocabulary import ActiveVocabulary, EncodedVocabulary, LiveVocabulary
from instformer_ros.model.config import ModelConfig
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.proposals import rank_score
from instformer_ros.model.variants import Variant, vary
from instformer_ros.model.vocabulary import parse_vocabulary
from instformer_ros.network import Network
from instformer_ros.paths import find_model
from instformer_ros.preprocess import Image, check_image, network_input, network_size
from instformer_ros.ready_vocabulary import ReadyWords
from instformer_ros.settings import Settings
from instformer_ros.shortage import Shortage
from instformer_ros.stopwatch import Stopwatch
from instformer_ros.structures import (
    Detection,
    InstanceTokens,
    InstformerError,
    Proposals,
    Session,
    TrackedFrame,
    Vocabulary,
)
from instformer_ros.tracking.duplicates import drop_duplicates, overlaps
from instformer_ros.tracking.tracker import Gates, ManagedTracker, SlotTracker, Tracker
from instformer_ros.weights import checkpoint

__all__ = ["EncodedVocabulary", "Engine", "Settings", "parse_vocabulary"]


@dataclass
class _Camera:
    """What is kept of one camera between frames."""

    tracker: Tracker
    life_cycle: str
    naming: Naming = field(default_factory=Naming)
    frames: int = 0


class Engine:
    """A model, a vocabulary, and the tracks of every camera.

    :meth:`step` and :meth:`begin` belong to one thread. Everything else may be called from others meanwhile.
    """

    def __init__(
        self,
        model: InstFormer,
        device: torch.device,
        settings: Settings | None = None,
        precision: str = "auto",
        graphs: bool = True,
        session: Session | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.device = device
        self._model = model
        self._network = Network(model, device, precision, graphs)
        self._shortage = Shortage(self._network.release)
        self._half = replace(
            model.config, short_side=model.config.short_side // 2, long_side=model.config.long_side // 2
        )
        self._session = session or Session()
        self._words = LiveVocabulary(model, device, self._session)
        self._cameras: dict[str, _Camera] = {}
        self._lock = threading.Lock()  # guards the cameras
        self._closed = False

    @classmethod
    def load(
        cls,
        model: str | Path = "toyvis",
        device: str = "auto",
        settings: Settings | None = None,
        untrained: bool = False,
        variant: Variant | None = None,
        precision: str = "auto",
        session: Session | None = None,
    ) -> Engine:
        """Loads a checkpoint.

        Args:
            model: name of an embedded checkpoint, or the path of one.
            device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
            settings: thresholds and the like.
            untrained: random weights (seed 0) of the checkpoint's configuration in place of its own, to compare with.
            variant: parts that differ from the checkpoint's: the paper's baselines.
            precision: of the network: ``auto`` (bf16 on GPUs that have it, else fp32), ``fp32``, ``bf16`` or ``fp16``.
            session: of an earlier engine that this one takes over from, so that no track ID or version comes twice.

        Raises:
            InstformerError: no such model, device or precision, the file is foreign or damaged, or has no weights for
                the variant, or the device's memory does not suffice.
        """
        where = find_device(device)
        network = checkpoint.load(find_model(model))
        if untrained:
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as they were
                torch.manual_seed(0)
                network = InstFormer(network.config)
        if variant is not None:
            network = vary(network, variant)
        with device_errors(where):
            return cls(network, where, settings, precision, session=session)

    @property
    def model(self) -> InstFormer:
        """The network, made ready for inference: to look at, not to train or copy. On a CPU its weights are packed."""
        return self._model

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        return self._model.config

    @property
    def vocabulary(self) -> Vocabulary:
        """The active one."""
        return self._words.active.vocabulary

    @property
    def unknown_words(self) -> tuple[str, ...]:
        """Active words that the text model never learnt: it takes their unknown pieces all for the same."""
        return self._words.active.encoded.unknown

    @property
    def device_memory(self) -> int:
        """Bytes that torch has taken of the GPU, graphs and what it keeps for later included; 0 on a CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    @property
    def shortage(self) -> str:
        """What is done at present because the device's memory did not suffice; "" if it does."""
        return "memory of the device is short: frames are seen at half size, one by one" if self._shortage.now else ""

    def encode_vocabulary(
        self, names: Sequence[str], pause: Callable[[float], None] | None = None
    ) -> EncodedVocabulary:
        """Embeds words without putting them into force. Slow for new words; off the frame path; thread-safe.

        Args:
            names: the words.
            pause: called after every bit of the work with the seconds it took; may sleep to give way to the frames, or
                raise to give up.

        Raises:
            InstformerError: too many words, one that is too long, or the device's memory does not suffice.
        """
        with device_errors(self.device):
            return self._words.encode(names, pause)

    def encode_embeddings(self, words: ReadyWords) -> EncodedVocabulary:
        """As :meth:`encode_vocabulary`, from ready-made embeddings of this model's CLIP.

        Raises:
            InstformerError: they are another CLIP's, to judge by their width.
        """
        with device_errors(self.device):
            return self._words.encode_embeddings(words)

    def use_vocabulary(self, encoded: EncodedVocabulary) -> Vocabulary:
        """Puts words into force from the next frame on, under the next version number. Tracks and their IDs stay."""
        return self._words.use(encoded)

    def set_vocabulary(self, names: Sequence[str]) -> Vocabulary:
        """:meth:`encode_vocabulary`, then :meth:`use_vocabulary`. No words = everything is tracked, class-agnostic."""
        return self.use_vocabulary(self.encode_vocabulary(names))

    def warm_up(self, height: int = 480, width: int = 640) -> None:
        """Runs the network once on a grey frame, so that the first real one finds it ready. Tracks are not touched.

        On a GPU, graphs for this size and one camera are captured; other sizes take that time at their first frame.
        """
        grey = np.full((height, width, 3), 128, np.uint8)
        with device_errors(self.device), torch.inference_mode():
            self._shortage.work(lambda lean: self._see([grey], None, Stopwatch(), lean))

    def step(self, images: Mapping[str, Image]) -> dict[str, TrackedFrame]:
        """One frame from each of some cameras, in one network pass per frame size.

        Where the device's memory does not suffice, frames are seen one by one at half size for half a minute.

        Args:
            images: camera name to RGB picture, (H, W, 3) uint8. Cameras may come and go; each has tracks of its own.

        Raises:
            InstformerError: a picture has another form, nothing has changed then; or memory does not suffice even so.
            DeviceLostError: the device is of no use any more.
        """
        return {camera: frame.finish() for camera, frame in self.begin(images).items()}

    def begin(self, images: Mapping[str, Image]) -> dict[str, PendingFrame]:
        """As :meth:`step`, but for the masks, which are left to each frame's ``finish()``, in any thread."""
        return self._run(images, None)

    def step_with_masks(
        self, images: Mapping[str, Image], masks: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, TrackedFrame]:
        """As :meth:`step`, with the masks given (ground truth, say) in place of the proposed ones.

        Args:
            images: as for :meth:`step`.
            masks: camera name to (M, H, W) bool, M up to the model's number of queries. Each takes the query whose
                proposal overlaps it best (one query each), and objectness 1.

        Raises:
            InstformerError: as :meth:`step`, or there are more masks than queries.
        """
        for camera, given in masks.items():
            if len(given) > self.config.proposals.queries:
                most = self.config.proposals.queries
                raise InstformerError(f"{len(given)} masks for camera '{camera}': this model takes {most} at most")
        return {camera: frame.finish() for camera, frame in self._run(images, masks).items()}

    def reset(self, camera: str | None = None) -> None:
        """Forgets the tracks of one camera, or of all. IDs go on, they are never used again."""
        with self._lock:
            if camera is None:
                self._cameras.clear()
            else:
                self._cameras.pop(camera, None)

    def close(self) -> None:
        """Frees the device's memory. The engine is of no use after that."""
        with device_errors(self.device):
            self._free()

    def _free(self) -> None:
        self._closed = True
        self.reset()
        self._words.clear()
        self._network.close()

    # -- one frame, from top to bottom --------------------------------------------------------------------------------

    def _run(
        self, images: Mapping[str, Image], given: Mapping[str, NDArray[np.bool_]] | None
    ) -> dict[str, PendingFrame]:
        if self._closed:
            raise InstformerError("this engine is closed; load it anew")
        for camera, image in images.items():
            check_image(camera, image)
        settings, active = self.settings, self._words.active  # one of each for the whole frame
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for camera, image in images.items():
            groups[network_size(image.shape[0], image.shape[1], self.config)].append(camera)
        frames: dict[str, PendingFrame] = {}
        with device_errors(self.device), torch.inference_mode(), self._lock:
            for cameras in groups.values():
                watch = Stopwatch()
                pictures = [images[camera] for camera in cameras]
                masks = [given[camera] for camera in cameras] if given is not None else None
                seen = self._shortage.work(partial(self._see, pictures, masks, watch))
                for camera, instances in zip(cameras, seen, strict=True):
                    frames[camera] = self._answer(camera, images[camera], instances, settings, active, watch.copy())
        return {camera: frames[camera] for camera in images}

    def _see(
        self,
        images: Sequence[Image],
        given: Sequence[NDArray[np.bool_]] | None,
        watch: Stopwatch,
        lean: bool,
    ) -> list[InstanceTokens]:
        """What the network makes of pictures of one size, all in one pass; ``lean``: one by one, at half size."""
        if lean and len(images) > 1:
            each = ((images[i : i + 1], given and given[i : i + 1]) for i in range(len(images)))
            return [self._see(image, masks, watch, lean)[0] for image, masks in each]
        with watch("preprocess"):
            batch = network_input(images, self._half if lean else self.config, self.device)
        with watch("proposals"):
            proposals = self._network.proposals(batch, lean)
        if given is None:
            with watch("instclip"):
                tokens = self._network.tokens(batch, proposals.mask_logits, lean=lean)
            return [_row(proposals, tokens, i) for i in range(len(images))]
        replaced = [replace_masks(proposals, i, masks) for i, masks in enumerate(given)]
        with watch("instclip"):
            return [
                InstanceTokens(p, self._network.tokens(batch[i : i + 1], p.mask_logits, rows))
                for i, (p, rows) in enumerate(replaced)
            ]

    def _answer(
        self,
        camera: str,
        image: Image,
        seen: InstanceTokens,
        settings: Settings,
        active: ActiveVocabulary,
        watch: Stopwatch,
    ) -> PendingFrame:
        """Tracks one camera's proposals and names the tracks."""
        height, width = image.shape[:2]
        with watch("association"):
            state = self._camera(camera, settings)
            state.naming.use(active.encoded, settings.negatives, self._model.instclip.clip.logit_scale)
            objectness, similarity, logits = _on_host(seen, state, settings)
            detection = Detection(seen.proposals.queries[0], seen.tokens[0], objectness)
            tracks = state.tracker.update(detection, similarity)
            state.frames += 1
            published = state.naming.name(tracks, logits, settings)
        frame = TrackedFrame(height, width, active.vocabulary, state.frames - 1)
        with watch("masks"):
            rows = [named.track.proposal for named in published if named.track.proposal is not None]
            kept = self._shortage.work(partial(KeptMasks, seen.proposals.mask_logits[0], rows, height, width))
            nothing = rle.empty(height, width)  # the mask of a coasting track
            frame.instances = [named.instance(nothing, settings.class_scores) for named in published]
            with_mask = zip(published, frame.instances, strict=True)
        frame.timings = watch.seconds
        return PendingFrame(frame, [one for named, one in with_mask if named.track.proposal is not None], kept)

    def _camera(self, name: str, settings: Settings) -> _Camera:
        """The camera's state, made at its first frame and made anew when the life cycle changes."""
        gates = Gates(
            settings.objectness_threshold, settings.keep_threshold, settings.match_threshold, settings.max_coast
        )
        state = self._cameras.get(name)
        if state is None or state.life_cycle != settings.life_cycle:
            kind = ManagedTracker if settings.life_cycle == "managed" else SlotTracker
            state = _Camera(kind(self._model.rollout, self._session.track_ids, gates), settings.life_cycle)
            self._cameras[name] = state
        state.tracker.gates = gates
        return state


def _on_host(
    seen: InstanceTokens, camera: _Camera, settings: Settings
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What the host wants of a frame, in one copy: scores (N,), likeness to the tracks (K, N), words' logits (N, C)."""
    once = settings.life_cycle == "managed" and settings.duplicate_threshold < 1  # each object
    likeness = camera.tracker.compare(seen.proposals.queries[0], seen.tokens[0])
    logits = camera.naming.logits(seen.tokens[0]).t()
    parts = [rank_score(seen.proposals), likeness, logits]
    if once:
        masks = seen.proposals.mask_logits[0] > 0
        parts.append(overlaps(masks, masks))
    table = torch.cat([part.float() for part in parts]).cpu().numpy()
    ends = np.cumsum([len(part) for part in parts])
    (scores,), similarity, rows, overlap = np.split(table, ends[:3])
    if once:
        scores = drop_duplicates(scores, overlap, settings.duplicate_threshold)
    return scores, similarity, rows.T


def _row(proposals: Proposals, tokens: Tensor, index: int) -> InstanceTokens:
    """One image out of a batch."""
    one = slice(index, index + 1)
    return InstanceTokens(
        Proposals(proposals.queries[one], proposals.objectness[one], proposals.mask_logits[one]), tokens[one]
    )
