"""`Tap`: how a backend is run so that what its network gives before decoding is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RawTensors:
    """What a network gave for a batch of images.

    Attributes:
        boxes: float32 [batch, anchors, 4], x0 y0 x1 y1 as fractions of the image, not clipped.
        scores: float32 [batch, anchors, classes].
        logits: float32 [batch, anchors, classes + 1], background first; None where the backend does not tell.
        offsets: float32 [batch, anchors, 4], what is decoded into `boxes`; None where the backend does not tell.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None
    offsets: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Tap:
    """A network that gives its head outputs.

    Attributes:
        run: uint8 [batch, height, width, 3] RGB -> `RawTensors`.
        close: lets go of the network.
        notes: why a tensor is not available, or what else a reader has to know.
    """

    run: Callable[[NDArray[np.uint8]], RawTensors]
    close: Callable[[], None]
    notes: tuple[str, ...] = ()
