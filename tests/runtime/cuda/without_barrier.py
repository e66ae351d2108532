"""Run in a separate process: the suppression without one of the kernels' barriers.

    python -m tests.runtime.cuda.without_barrier INDEX

It ends with the status `WRONG` where the results are wrong.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import numpy as np

from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE
from tests.fakes.host_cuda import ORDERS, HostCuda
from tests.runtime.cuda.adversarial_nms import adversarial_batch
from tests.runtime.cuda.nms_runs import references, run_nms
from tests.runtime.equal_detections import assert_all_equal
from tests.runtime.nms_inputs import random_boxes

BARRIER = "__syncthreads();"
WRONG = 42
LAUNCH_SECONDS = 20  # instead of milliseconds: it never ends


def main(index: int) -> None:
    parts = KERNEL_SOURCE.split(BARRIER)
    source = BARRIER.join(parts[: index + 1]) + BARRIER.join(parts[index + 1 :])
    rng = np.random.default_rng(3)
    large = random_boxes(rng, 700)[None], rng.random((1, 700, 2)).astype(np.float32) ** 4
    limits: dict[str, Any] = {"score_threshold": 0.0, "iou_threshold": 0.5, "candidates": 200, "detections": 90}
    for boxes, scores, settings in [*map(adversarial_batch, range(25)), (*large, limits)]:
        wanted = references(boxes, scores, **settings)
        for order in ORDERS:
            signal.alarm(LAUNCH_SECONDS)
            try:
                found = run_nms(HostCuda(order=order), boxes, scores, source=source, threads=96, **settings)
                assert_all_equal(found, wanted)
            except (AssertionError, CudaError):
                sys.exit(WRONG)


if __name__ == "__main__":
    main(int(sys.argv[1]))
