"""Pictures of any size brought to one: the shorter side scaled to ``size``, the centre cropped; deterministic.

Scaling is Pillow's antialiased bicubic (the filter widens with the reduction), to ``round(side * size / shorter)``; the crop starts at
``(side - size) // 2``.  A picture that is ``size`` square already comes back unchanged.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["as_array", "fit", "fit_picture"]


def fit_picture(picture: Image.Image, size: int) -> Image.Image:
    """``picture`` at (size, size)."""
    width, height = picture.size
    if (width, height) == (size, size):
        return picture
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def as_array(picture: Image.Image) -> np.ndarray:
    """uint8 (height, width, channels)."""
    array = np.asarray(picture, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """``image`` uint8 (h, w, 1 or 3) at (size, size, 1 or 3)."""
    if image.shape[:2] == (size, size):
        return image
    return as_array(fit_picture(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), size))
