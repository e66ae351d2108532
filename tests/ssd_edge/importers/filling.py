"""Weights and images that are the same on every machine, for the originals and for what is imported."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def fill(name: str, shape: Sequence[int], gain: float = 1.0) -> NDArray[np.float32]:
    """Random values that depend on the parameter's name and shape alone.

    Weights of convolutions keep the spread of what they read, times `gain`. The statistics and scales of batch norms,
    which have one dimension, are told by their names: variances and scales from 0.5 to 1.5, all else around 0.
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.float32)
    if len(shape) > 1:
        spread = gain * math.sqrt(2 / math.prod(shape[1:]))
        return (rng.standard_normal(shape) * spread).astype(np.float32)
    if name.endswith(("running_var", "scale", ".weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


def gain_of(name: str, gains: Mapping[str, float]) -> float:
    """The gain of the first prefix that a name begins with; 1 where there is none."""
    return next((gain for prefix, gain in gains.items() if name.startswith(prefix)), 1.0)


def images(height: int, width: int) -> NDArray[np.uint8]:
    """Three images, uint8 [3, height, width, 3] RGB: coloured noise, coarse enough that convolutions see shapes."""
    rng = np.random.Generator(np.random.PCG64(2026))
    coarse = rng.integers(0, 256, (3, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, :height, :width]
