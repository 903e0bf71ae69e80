"""Four sequences of DAVIS 2016 side by side: a real video of four known tracks, one in each quadrant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from instformer_ros.data.annotation_file import check_folder
from instformer_ros.data.sources import read_picture
from instformer_ros.data.videos import Image, Masks
from instformer_ros.structures import InstformerError


class TiledVideo:
    """Four sequences tiled 2×2, as long as the shortest; see :class:`.videos.Video`.

    Only the main object of a DAVIS-2016 sequence is labelled: measure best-mask IoU and identities, never precision.

    Args:
        root: the folder that holds ``JPEGImages`` and ``Annotations``, each with a folder for each sequence.
        sequences: names of four sequences: upper left, upper right, lower left, lower right.
        height: of the tiled frames in pixels; even.
        width: likewise.

    Raises:
        InstformerError: not four sequences, odd sizes, or pictures and masks that are missing or do not pair.
    """

    def __init__(self, root: str | Path, sequences: Sequence[str], height: int = 384, width: int = 640) -> None:
        if len(sequences) != 4:
            raise InstformerError(f"{len(sequences)} sequences to tile; give four")
        if height % 2 or width % 2:
            raise InstformerError(f"tiled video of {width}x{height} pixels: use even sizes")
        self.height, self.width, self.names = height, width, tuple(sequences)
        self._files = [_pairs(Path(root), sequence) for sequence in sequences]
        self.length = min(len(files) for files in self._files)

    def __iter__(self) -> Iterator[tuple[Image, Masks]]:
        return (self.frame(t) for t in range(self.length))

    def frame(self, t: int) -> tuple[Image, Masks]:
        """Frame ``t``: (H, W, 3) uint8 RGB and the four masks, (4, H, W) bool."""
        if not 0 <= t < self.length:
            raise IndexError(f"frame {t} of a video of {self.length}")
        image = np.zeros((self.height, self.width, 3), np.uint8)
        masks = np.zeros((4, self.height, self.width), np.bool_)
        size = (self.width // 2, self.height // 2)
        for k, files in enumerate(self._files):
            picture, mask = (read_picture(path, upright=False) for path in files[t])
            rows = slice(k // 2 * size[1], (k // 2 + 1) * size[1])
            columns = slice(k % 2 * size[0], (k % 2 + 1) * size[0])
            image[rows, columns] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            masks[k, rows, columns] = cv2.resize(mask[..., 0], size, interpolation=cv2.INTER_NEAREST) > 127
        return image, masks


def _pairs(root: Path, sequence: str) -> list[tuple[Path, Path]]:
    """Picture and mask of every frame of a sequence."""
    pictures, masks = root / "JPEGImages" / sequence, root / "Annotations" / sequence
    check_folder(pictures)
    check_folder(masks)
    found = sorted(pictures.glob("*.jpg"))
    pairs = [(path, masks / f"{path.stem}.png") for path in found if (masks / f"{path.stem}.png").exists()]
    if not pairs or len(pairs) < len(found):
        raise InstformerError(
            f"sequence '{sequence}': {len(found)} pictures, masks for {len(pairs)} of them; fetch it again"
        )
    return pairs
