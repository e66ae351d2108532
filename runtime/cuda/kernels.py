"""The kernels of kernels.cu, for `Cuda.module`, and the types of their arguments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

KERNEL_SOURCE = Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8")
KERNELS = ("preprocess_bgr", "preprocess_yuv", "nms_collect", "nms_suppress", "nms_merge")  # for `Cuda.module`


def u64(*values: int) -> list[np.generic]:
    """Arguments for pointers and sizes."""
    return [np.uint64(value) for value in values]


def i32(*values: int) -> list[np.generic]:
    """Arguments for `int`s."""
    return [np.int32(value) for value in values]
