"""Check whether the bundled model detects what it should."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from ssd_edge.errors import PIP_INSTALL
from ssd_edge.runtime.doctor.finding import OK, PROBLEM, Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUNS = 5
SCORE = 0.4  # the threshold of `stream`
# "ssd-edge" as a QR code, version 1: a row of 21 modules each, dark ones set.
QR_ROWS = (
    *(0x1FD17F, 0x105A41, 0x175F5D, 0x17555D, 0x174F5D, 0x105541, 0x1FD57F, 0x000000, 0x19C12F, 0x1E2D54, 0x06F996),
    *(0x0B3F03, 0x0FE2E3, 0x00171C, 0x1FC25A, 0x105CF8, 0x1759E2, 0x174DDB, 0x174190, 0x105F10, 0x1FDE61),
)
QR_PIXELS, QR_QUIET = 10, 4  # a module's side; the white margin in modules


def bundled() -> Finding:
    """The bundled model finds a QR code in a picture, on the processor; and how long a frame takes."""
    from ssd_edge.bundled import bundled_model
    from ssd_edge.runtime.detector import open_detector

    times_ms = []
    with open_detector(bundled_model(), score_threshold=SCORE) as detector:
        for _ in range(RUNS):
            (found,) = detector([qr_picture()])
            times_ms.append(detector.timings.total_ms)
        names = [detector.card.class_names[label] for label in found.labels]
    ms = statistics.median(times_ms)
    facts = {"ms": round(ms, 2), "found": names}
    if names != ["qr_code"]:
        return Finding(
            PROBLEM,
            f"runs, but finds {', '.join(names) or 'nothing'} in a picture of one QR code",
            facts,
            "detections that can be trusted",
            "install ONNX Runtime and ssd-edge again: pip install --force-reinstall onnxruntime, then "
            f"{PIP_INSTALL} --force-reinstall .",
        )
    return Finding(OK, f"finds a QR code in {ms:.1f} ms", facts)


def qr_picture() -> NDArray[np.uint8]:
    """uint8 [480, 640, 3]: a QR code in the middle of grey."""
    import numpy as np

    dark = np.array([[row >> shift & 1 for shift in reversed(range(len(QR_ROWS)))] for row in QR_ROWS], np.uint8)
    code = np.pad(255 * (1 - dark), QR_QUIET, constant_values=255).repeat(QR_PIXELS, 0).repeat(QR_PIXELS, 1)
    picture = np.full((480, 640, 3), 128, np.uint8)
    top, left = (480 - len(code)) // 2, (640 - len(code)) // 2
    picture[top : top + len(code), left : left + len(code)] = code[..., None]
    return picture
