"""Square patches of scikit-learn's two photographs, a temple in China and a flower: small natural images, in the wheel, no download.

    grey       Y = 0.299 R + 0.587 G + 0.114 B of 0..255        (ITU-R BT.601), float32
    colour     R, G, B as they are, uint8
    x0         v / 127.5 - 1

Natural images have a spectrum near 1/f in amplitude (Field 1987), so that coarse and fine details differ by orders of magnitude, which
handwritten digits do not.

Split.  Each photograph (427 x 640) is cut into tiles of 64 x 64; what is left at the right and below is not used.  Tile (row, column) of
photograph k is held out if (column + 2 row + k) mod 5 = 0: a fifth, spread over both.  Patches start at multiples of ``stride`` within a
tile and lie in it wholly, so that no pixel is in both splits.  No random number is involved.  The label is the photograph.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from score_lab.build import refuse
from score_lab.data.source import ArrayRecords, DataSpec, Records, Source, digest

__all__ = ["TILE", "Patches", "held_out"]

SIZES = (8, 16)
TILE = 64
"""The side of a region that belongs to one split."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
"""In the order of the labels."""


def held_out(photograph: int, row: int, column: int) -> bool:
    """Whether the tile is of the test split."""
    return (column + 2 * row + photograph) % 5 == 0


@dataclasses.dataclass(frozen=True)
class Patches(Source):
    """Patches (size, size, 1), or with ``colour`` (size, size, 3), labelled 0 (temple) and 1 (flower).

    Attributes:
      size: 8 or 16.
      colour: three channels instead of the luminance.
      stride: pixels between the starts of two patches; None: half of the size.
      flip: training patches may be mirrored left to right.

    Its fingerprint covers every value of the photographs, as decoded here, and the fields that change ``x0``.
    """

    size: int = 8
    colour: bool = False
    stride: int | None = None
    flip: bool = False
    value_range = (0, 255)

    def check(self):
        """Raises ConfigError for a size or a stride that is not allowed."""
        if self.size not in SIZES:
            refuse("size", self.size, " or ".join(map(str, SIZES)))
        if self.stride is not None and (type(self.stride) is not int or not 1 <= self.stride <= TILE - self.size):
            refuse("stride", self.stride, f"1 to {TILE - self.size} pixels, or None: half of the size")

    @functools.cached_property
    def _photographs(self) -> tuple[np.ndarray, ...]:
        """(427, 640, channels) each."""
        from sklearn.datasets import load_sample_image

        found = (load_sample_image(name) for name in PHOTOGRAPHS)
        return tuple(v if self.colour else (v.astype(np.float32) @ LUMA)[..., None] for v in found)

    def _open(self, split: str) -> Records:
        stride = self.stride or self.size // 2
        starts = range(0, TILE - self.size + 1, stride)
        images, labels = [], []
        for k, photograph in enumerate(self._photographs):
            rows, columns = (n // TILE for n in photograph.shape[:2])
            for row in range(rows):
                for column in range(columns):
                    if held_out(k, row, column) != (split == "test"):
                        continue
                    tile = photograph[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                    images += [tile[i : i + self.size, j : j + self.size] for i in starts for j in starts]
                    labels += [k] * len(starts) ** 2
        return ArrayRecords(image=np.stack(images), label=np.array(labels, np.int32))

    def _spec(self) -> DataSpec:
        stride = self.stride or self.size // 2
        return DataSpec(
            (self.size, self.size, 3 if self.colour else 1), 2, digest("patches", self.size, self.colour, stride, *self._photographs)
        )
