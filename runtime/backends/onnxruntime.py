"""Run an ONNX file with ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.cpus import usable_cpus
from ssd_edge.detections import Detections
from ssd_edge.errors import ModelFileError, reason
from ssd_edge.runtime.backends.base import Detector, Timings, check_frame
from ssd_edge.runtime.backends.ort_session import open_session
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.onnx_file.contract import contract_misfits
from ssd_edge.runtime.onnx_file.file import REMEDY, OnnxFile
from ssd_edge.runtime.pixels import Pixels

MOST_RUNS = 16  # at once: each has memory of its own for what is between layers
# Frames that a thread works on in one go where there are enough of them. The network drives everything else out of the
# processor's caches, Python's code too, and what is done for four frames in a row finds it there again three times.
FRAMES_A_TASK = 4


class OnnxDetector(Detector):
    """A `Detector` for files that obey the ONNX contract: uint8 `images` in, `boxes` and `scores` out.

    The file is looked into before ONNX Runtime opens it (`check_onnx_file`), then checked against the contract and its
    card, and run once, before it is trusted.

    With several slots, each batch that is submitted is resized and goes through the network on a thread of its own, so
    its frames must not change until it is collected; threads beyond their number help them all.

    Args:
        threads: all together; None: one a core.
        parallel: slots, as far as there are threads; None: one a thread, for `FRAMES_A_TASK` frames at a time.

    Raises:
        ModelFileError: no ONNX file, or one that `check_onnx_file` refuses; no card; inputs and outputs that break the
            contract.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        score_threshold: float | None = None,
        spin: bool = False,
        parallel: int | None = 1,
    ) -> None:
        file = check_onnx_file(path)
        super().__init__(_read_card(file), score_threshold=score_threshold)
        runs = 1
        if parallel != 1:
            threads = threads or usable_cpus()
            runs = min(parallel or threads, threads, MOST_RUNS)
            threads -= runs - 1  # ONNX Runtime counts the one that calls it, of which there are so many
            if parallel is None:
                self.slots, self.batch = runs + 1, FRAMES_A_TASK  # one waits already where another ends
            else:
                self.slots = runs
        self._session = _load(file, threads, spin)
        _check_signature(file, self._session, self.card)
        self._check_run(path)
        self._pool = ThreadPoolExecutor(runs, "detector")  # starts threads when there is work
        self._buffers = threading.local()  # of each thread, as large as its last batch
        self._under_way: deque[Future[tuple[list[Detections], Timings]]] = deque()

    def submit(self, frames: Sequence[Pixels]) -> None:
        if self.slots == 1:
            super().submit(frames)
            return
        self._check_open()
        for index, frame in enumerate(frames):
            check_frame(index, frame)
        future = self._pool.submit(self._prepare_and_detect, frames)
        self._under_way.append(future)
        future.add_done_callback(lambda _: self.on_done())

    def _prepare_and_detect(self, frames: Sequence[Pixels]) -> tuple[list[Detections], Timings]:
        """In a thread of the pool: what is resized there is in its core's cache when the network reads it."""
        shape = (len(frames), self.card.height, self.card.width, 3)
        buffer = getattr(self._buffers, "images", None)
        if buffer is None or buffer.shape != shape:
            self._buffers.images = buffer = np.empty(shape, np.uint8)
        return self._detect(self._prepare(frames, buffer))

    def wait(self, timeout_s: float = 0.0) -> bool:
        try:
            if self._under_way:
                self._under_way[0].exception(timeout_s)
        except TimeoutError:
            return False
        return True

    def collect(self) -> list[Detections]:
        if self._closed or not self._under_way:
            return super().collect()
        detections, self.timings = self._under_way.popleft().result()
        return detections

    def _outputs(
        self, images_rgb: NDArray[np.uint8]
    ) -> tuple[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]]:
        if self.slots == 1:
            return super()._outputs(images_rgb)
        # One after the other: what lies between layers then fits the cache of one core.
        outputs = [self.infer(image[None]) for image in images_rgb]
        return [boxes[0] for boxes, _ in outputs], [scores[0] for _, scores in outputs]

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        boxes, scores = self._session.run(["boxes", "scores"], {"images": images_rgb})
        return boxes, scores

    def _release(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        del self._session

    def _check_run(self, path: Path) -> None:
        """One blank image: finds what a signature cannot show, and warms up."""
        blank = np.zeros((1, self.card.height, self.card.width, 3), np.uint8)
        try:
            boxes, scores = self.infer(blank)
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ModelFileError(f"{path} does not run: {reason(error)}; {REMEDY}") from error
        anchors, classes = boxes.shape[1], len(self.card.class_names)
        if boxes.shape != (1, anchors, 4) or scores.shape != (1, anchors, classes):
            raise ModelFileError(
                f"{path}: boxes {list(boxes.shape)} and scores {list(scores.shape)} for one image; expected "
                f"[1, anchors, 4] and [1, anchors, {classes}], as its card has {classes} classes; {REMEDY}"
            )


def _load(file: OnnxFile, threads: int | None, spin: bool) -> ort.InferenceSession:
    try:
        return open_session(file.path, threads=threads, spin=spin, metadata=file.metadata)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise ModelFileError(
            f"{file.path}: ONNX Runtime {ort.__version__} cannot load it: {reason(error)}; {REMEDY}"
        ) from error


def _read_card(file: OnnxFile) -> ModelCard:
    if ONNX_METADATA_KEY not in file.metadata:
        problems = "".join(f"; {problem}" for problem in contract_misfits(file))
        raise ModelFileError(f"{file.path} has no model card ({ONNX_METADATA_KEY} in its metadata){problems}; {REMEDY}")
    return ModelCard.from_json(file.metadata[ONNX_METADATA_KEY], source=str(file.path))


def _check_signature(file: OnnxFile, session: ort.InferenceSession, card: ModelCard) -> None:
    """Names, types and shapes; a size of None may be anything, "batch" must not be a fixed number."""
    classes = len(card.class_names)
    expected = {
        "images": ("tensor(uint8)", ("batch", card.height, card.width, 3)),
        "boxes": ("tensor(float)", ("batch", None, 4)),
        "scores": ("tensor(float)", ("batch", None, classes)),
    }
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    if set(inputs) != {"images"} or set(outputs) != {"boxes", "scores"}:
        raise ModelFileError(f"{file.path} has {'; '.join(contract_misfits(file))}; {REMEDY}")
    for name, tensor in (inputs | outputs).items():
        kind, shape = expected[name]
        if tensor.type != kind or not _shape_fits(tensor.shape, shape):
            raise ModelFileError(
                f"{file.path}: {name} is {tensor.type} {tensor.shape}, not {kind} {list(shape)}, batch dynamic; "
                f"its card says {card.height}×{card.width} pixels and {classes} classes; {REMEDY}"
            )


def _shape_fits(shape: list[int | str | None], expected: tuple[int | str | None, ...]) -> bool:
    """Whether a declared shape, in which a dynamic size is a name or None, is compatible."""
    if len(shape) != len(expected) or isinstance(shape[0], int):
        return False
    sizes = zip(shape[1:], expected[1:], strict=True)
    return all(wanted is None or not isinstance(size, int) or size == wanted for size, wanted in sizes)
