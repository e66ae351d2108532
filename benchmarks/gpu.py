"""The GPU's pipeline on the GPU at hand: does it run, is it right, how fast is it. One command, a table and JSON.

    python benchmarks/gpu.py -o benchmarks/gpu.json
    python benchmarks/gpu.py --ssdlite runs/coco90/best.pt --map runs/bccd/best.pt ../shared/data/bccd test -o …

Needs the `train` and `export` extras and cuda-core; TensorRT or TensorRT-RTX where it is there. Each section stands
alone: what fails is recorded with its message, and the others go on, until the GPU itself is lost. Times are medians of
`--runs` rounds, in every one of which each contender runs once. Rows called fp32 are TF32 on GPUs that have it (compute
capability 8.0 and later): in TensorRT, and in PyTorch where the figures say that cuDNN may. Without checkpoints,
weights are random; what suppression has to do is then made to be like what a trained model gives it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from gpu_models import (
    PRECISIONS,
    SCORES_ABOVE,
    Image,
    OnGpu,
    background_for,
    build,
    onnxruntime_cuda_peer,
    open_engine,
    open_on_torch,
    torchvision_model,
    torchvision_peer,
    untrained_checkpoint,
    write_onnx,
)
from gpu_timing import Contender, captured, medians_ms, on_the_clock, on_the_gpu
from report import report

from ssd_edge.bench.machine import describe_machine
from ssd_edge.bundled import bundled_model
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.detections import Detections
from ssd_edge.errors import MissingDependencyError
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.images import load_image
from ssd_edge.runtime.cuda import Cuda, CudaError, CudaFatalError, Stream, cuda_failure, open_cuda
from ssd_edge.runtime.detector import Detector, open_detector
from ssd_edge.runtime.gpu_detector import GpuDetector
from ssd_edge.runtime.kernels import KERNEL_SOURCE, KERNELS, Nms, preprocess_bgr
from ssd_edge.runtime.nms import nms
from ssd_edge.runtime.preprocess import preprocess

LARGE_BATCH = 32
Row = dict[str, Any]


@dataclass
class Bench:
    """What sections share.

    Attributes:
        checkpoints: by architecture.
        engines: TensorRT engines that have run here, by architecture, precision and batch.
        pairs: model, dataset and split to compare mAP on.
    """

    cuda: Cuda
    folder: Path
    runs: int
    quick: bool
    frame: Image
    checkpoints: dict[str, Path]
    trained: dict[str, bool]
    pairs: list[tuple[str, str, str]]
    onnx: list[Path]
    engines: dict[tuple[str, str, int], Path] = field(default_factory=dict)

    def detectors(self, arch: str, batch: int) -> Iterator[tuple[str, Callable[[], GpuDetector]]]:
        """Every way to run an architecture in our pipeline here."""
        for name, half in (("PyTorch fp32", False), ("PyTorch fp16", True)):
            yield name, partial(open_on_torch, self.checkpoints[arch], half=half, batch=batch)
        for (of, precision, size), path in self.engines.items():
            if (of, size) == (arch, batch):
                yield f"TensorRT {precision}", partial(open_engine, path)


def is_lost(error: Exception) -> bool:
    """Whether the GPU can be used no more after an error, ours or PyTorch's, which is any `RuntimeError`."""
    said = isinstance(error, RuntimeError) and "CUDA" in str(error) and cuda_failure("PyTorch", str(error)).fatal
    return said or isinstance(error, CudaFatalError)


def attempt(rows: list[Row], about: Row, measure: Callable[[], Row]) -> None:
    """Add a row: what was measured, or why not, word for word."""
    try:
        rows.append({**about, **measure()})
    except Exception as error:
        if is_lost(error):
            raise
        rows.append({**about, "failed": f"{type(error).__name__}: {error}"})
        traceback.print_exc()
    print(rows[-1], flush=True)


def tensorrt(bench: Bench, rows: list[Row]) -> None:
    """Which engines can be built and run here."""
    files = [(path.stem, "given", path) for path in bench.onnx]
    for arch, checkpoint in bench.checkpoints.items():
        for precision in PRECISIONS:
            try:
                path = write_onnx(checkpoint, precision, bench.folder / f"{arch}_{precision}.onnx")
                files.append((arch, precision, path))
            except Exception as error:
                rows.append({"model": arch, "precision": precision, "failed": f"{type(error).__name__}: {error}"})
    for model, precision, path in files:
        for batch in (1,) if bench.quick else (1, LARGE_BATCH):

            def measure(path: Path = path, key: tuple[str, str, int] = (model, precision, batch)) -> Row:
                engine, figures = build(path, key[2])
                bench.engines[key] = engine
                return figures

            attempt(rows, {"model": model, "precision": precision, "batch": batch}, measure)


def correctness(bench: Bench, rows: list[Row]) -> None:
    """Kernels and detectors against the processor's."""
    attempt(
        rows, {"check": "preprocess, largest difference in levels", "allowed": 1}, partial(_preprocess_levels, bench)
    )
    for name, (boxes, scores), threshold, iou in _outputs(bench):
        attempt(
            rows,
            {"check": f"NMS of {name}, images that differ from the reference", "allowed": 0},
            partial(_nms_differences, bench, boxes, scores, threshold, iou),
        )
    for arch, checkpoint in bench.checkpoints.items():
        with open_detector(checkpoint) as reference:
            expected = reference([bench.frame])[0]
        for name, open_gpu in bench.detectors(arch, 1):
            if "int8" not in name:  # whose ranges are none of this model's
                about = {"check": f"{arch}, {name}: share of the processor's 20 best detections that it finds too"}
                attempt(rows, about, partial(_found_share, bench, open_gpu, expected))
    for model, data, split in bench.pairs:
        attempt(rows, {"check": f"AP of {model} on {data} {split}"}, partial(_ap, bench, model, data, split))


def _preprocess_levels(bench: Bench) -> Row:
    worst = 0
    rng = np.random.default_rng(0)
    for frame_hw, size_hw in (
        ((1080, 1920), (300, 300)),
        ((480, 640), (320, 320)),
        ((33, 77), (320, 320)),
        ((1, 1), (8, 8)),
    ):
        frame, got = rng.integers(0, 256, (*frame_hw, 3), np.uint8), np.empty((*size_hw, 3), np.uint8)
        with ExitStack() as stack:
            stream = stack.enter_context(bench.cuda.stream())
            source = stack.enter_context(bench.cuda.memory(frame.nbytes)).address
            target = stack.enter_context(bench.cuda.memory(got.nbytes)).address
            stream.copy(source, frame.ctypes.data, frame.nbytes)
            kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
            preprocess_bgr(stream, kernels, source, 3 * frame_hw[1], frame_hw, target, size_hw)
            stream.copy(got.ctypes.data, target, got.nbytes)
            stream.synchronize()
        worst = max(worst, int(np.abs(got.astype(int) - preprocess(frame, size_hw)).max()))
    return {"found": worst, "ok": worst <= 1}


def _outputs(bench: Bench) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray], float, float]]:
    """Outputs of networks to suppress: name, (boxes, scores) of 4 images, score and IoU thresholds."""
    with open_detector(bundled_model()) as detector:
        card = detector.card
        image = preprocess(bench.frame, (card.height, card.width))
        images = np.stack([np.roll(image, 40 * shift, axis=1) for shift in range(4)])
        yield "the bundled model", detector.infer(images), 0.001, card.nms_iou
    logits, scores, _ = ssd300_scores(bench, 4)
    boxes = np.random.default_rng(5).random((4, logits.shape[1], 2, 2), np.float32)
    boxes.sort(axis=2)
    yield "SSD300's size", (boxes.reshape(4, -1, 4), scores), 0.01, 0.45


def _suppression(bench: Bench, stack: ExitStack, batch: int, shape: tuple[int, int]) -> Nms:
    """With the limits that torchvision's SSD300 has."""
    kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
    return stack.enter_context(Nms(bench.cuda, kernels, batch, *shape, 400, 200))


def _uploaded(bench: Bench, stack: ExitStack, stream: Stream, array: np.ndarray) -> int:
    array = np.ascontiguousarray(array)
    memory = stack.enter_context(bench.cuda.memory(array.nbytes))
    stream.copy(memory.address, array.ctypes.data, array.nbytes)
    stream.synchronize()
    return memory.address


def _nms_differences(bench: Bench, boxes: np.ndarray, scores: np.ndarray, threshold: float, iou: float) -> Row:
    with ExitStack() as stack:
        stream = stack.enter_context(bench.cuda.stream())
        suppression = _suppression(bench, stack, len(scores), scores.shape[1:])
        addresses = [_uploaded(bench, stack, stream, values) for values in (boxes, scores)]
        suppression.launch(stream, *addresses, score_threshold=threshold, iou_threshold=iou)
        output = np.empty(suppression.output_bytes, np.uint8)
        stream.copy(output.ctypes.data, suppression.output, output.nbytes)
        stream.synchronize()
        found = suppression.read(output, [(1, 1)] * len(scores))
    limits = {"score_threshold": threshold, "iou_threshold": iou, "candidates": 400, "detections": 200}
    expected = [nms(np.clip(b, 0, 1), s, **limits) for b, s in zip(boxes, scores, strict=True)]  # type: ignore[arg-type]
    differing = sum(not _equal(one, other) for one, other in zip(found, expected, strict=True))
    return {"found": differing, "detections": sum(map(len, expected)), "ok": differing == 0 and len(expected[0]) > 0}


def _equal(one: Detections, other: Detections) -> bool:
    pairs = ((one.labels, other.labels), (one.scores, other.scores), (one.boxes_xyxy, other.boxes_xyxy))
    return all(np.array_equal(a, b) for a, b in pairs)


def _found_share(bench: Bench, open_gpu: Callable[[], GpuDetector], expected: Detections) -> Row:
    """Of the same class, each corner within a hundredth of the frame, the score within a hundredth."""
    with open_gpu() as detector:
        for _ in range(3):  # as it comes, captured, replayed
            (found,) = detector([bench.frame])
    best = range(min(20, len(expected)))
    near = 0.01 * max(bench.frame.shape)
    hits = [
        (
            (found.labels == expected.labels[i])
            & (np.abs(found.boxes_xyxy - expected.boxes_xyxy[i]).max(axis=1, initial=0) < near)
            & (np.abs(found.scores - expected.scores[i]) < 0.01)
        ).any()
        for i in best
    ]
    return {"found": float(np.mean(hits)), "detections": len(best)}


def _ap(bench: Bench, model: str, data: str, split: str) -> Row:
    """The processor's and the GPU's, in the same precision; detections count as equal within 0.0005 (0.05 points)."""
    path = bundled_model() if model == "bundled" else Path(model)
    dataset = lint(read_dataset(Path(data), None if split == "all" else split))[0]
    onnx = path if path.suffix == ".onnx" else write_onnx(path, "fp32", bench.folder / f"{path.stem}_ap.onnx")

    def ap(detector: Detector) -> float:
        with detector:
            return evaluate(detector, dataset).metrics["AP"]

    row: Row = {"images": len(dataset), "processor": ap(open_detector(onnx))}
    openers: dict[str, Callable[[], Detector]] = {"TensorRT fp32": lambda: open_engine(build(onnx, 8)[0])}
    if path.suffix != ".onnx":
        openers["PyTorch fp32"] = lambda: open_on_torch(path, half=False, batch=8)
    for name, open_gpu in openers.items():
        try:
            row[name] = ap(open_gpu())
        except Exception as error:
            if is_lost(error):
                raise
            row[f"{name} failed"] = f"{type(error).__name__}: {error}"
    measured = [row[name] for name in openers if name in row]
    row["ok"] = bool(measured) and all(abs(value - row["processor"]) <= 0.0005 for value in measured)
    return row


def ssd300_scores(bench: Bench, batch: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Logits [batch, 8732, 91] with the background first, scores [batch, 8732, 90], and where they are from."""
    checkpoint = bench.checkpoints["ssd300_vgg16"]
    if bench.trained["ssd300_vgg16"]:
        model, card = model_from_checkpoint(checkpoint)
        image = preprocess(bench.frame, (card.height, card.width))
        images = np.stack([np.roll(image, 20 * shift, axis=1) for shift in range(batch)])
        with torch.inference_mode():
            logits = model(torch.from_numpy(images).float().permute(0, 3, 1, 2)).cls_logits.numpy()
        source = "the checkpoint's, of shifted copies of one image"
    else:
        rng = np.random.default_rng(0)
        logits = rng.standard_t(4, (batch, 8732, 91)).astype(np.float32)
        for each in logits:  # most anchors see nothing, a few see much
            each *= 0.7 + 0.35 * np.maximum(rng.standard_t(2, (8732, 1)), 0)
            each[:, 0] = 0
            each[:, 0] += background_for(each, 0.01, SCORES_ABOVE)
        source = f"softmax of seeded Student's t logits, about {SCORES_ABOVE} scores an image above the threshold"
    scores = torch.softmax(torch.from_numpy(logits), dim=2)[:, :, 1:].numpy()
    return logits, np.ascontiguousarray(scores), source


def suppression(bench: Bench, rows: list[Row]) -> None:
    """NMS of SSD300: threshold 0.01, 400 candidates, IoU 0.45, 200 detections, against torchvision's on this GPU.

    torchvision's cannot be parted from softmax, decoding and clipping, so beside it ours has them too: softmax and
    decoding by PyTorch, of the same logits and offsets; our kernels clip.
    """
    for batch in (1, 16):
        attempt(rows, {"batch": batch}, partial(_suppression_ms, bench, batch))
    times = [row["our_clip_nms_gpu_ms"] for row in rows if "our_clip_nms_gpu_ms" in row]
    if len(times) == 2:
        rows.append({"our_clip_nms_gpu_ms of batch 16 / batch 1": times[1] / times[0]})


def _suppression_ms(bench: Bench, batch: int) -> Row:
    logits, scores, source = ssd300_scores(bench, batch)
    model = torchvision_model(bench.checkpoints["ssd300_vgg16"])
    model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img = 0.01, 0.45, 400, 200
    sizes = [(300, 300)] * batch
    with ExitStack() as stack, torch.inference_mode():
        images = [torch.zeros(3, 300, 300, device="cuda")] * batch
        transformed, _ = model.transform(images)
        anchors = model.anchor_generator(transformed, list(model.backbone(transformed.tensors).values()))
        offsets = torch.randn(batch, 8732, 4, device="cuda")
        head = {"bbox_regression": offsets, "cls_logits": torch.from_numpy(logits).cuda()}
        boxes = torch.empty(batch, 8732, 4, device="cuda")
        our_scores = torch.empty(batch, 8732, 90, device="cuda")

        def decode() -> None:
            our_scores.copy_(torch.softmax(head["cls_logits"], dim=2)[:, :, 1:])
            for into, of, anchor in zip(boxes, offsets, anchors, strict=True):
                torch.div(model.box_coder.decode_single(of, anchor), 300, out=into)

        decode()
        torch.cuda.synchronize()
        stream = stack.enter_context(bench.cuda.stream())
        same_stream = torch.cuda.ExternalStream(stream.handle)  # type: ignore[no-untyped-call]
        ours = _suppression(bench, stack, batch, (8732, 90))
        addresses = [boxes.data_ptr(), our_scores.data_ptr()]
        launch = captured(
            stack,
            stream,
            lambda: ours.launch(stream, *addresses, score_threshold=0.01, iou_threshold=0.45),
        )

        def theirs() -> None:
            model.postprocess_detections(head, anchors, sizes)
            torch.cuda.synchronize()

        def ours_and_wait() -> None:
            with torch.cuda.stream(same_stream):
                decode()
            launch()
            stream.synchronize()

        contenders: dict[str, Contender] = {
            "our_clip_nms_gpu_ms": on_the_gpu(stack, bench.cuda, stream, launch),
            "our_softmax_decode_clip_nms_ms": on_the_clock(ours_and_wait),
            "torchvision_softmax_decode_clip_nms_ms": on_the_clock(theirs),
        }
        found = medians_ms(contenders, bench.runs)
        their_count = len(model.postprocess_detections(head, anchors, sizes)[0]["labels"])
        output = np.empty(ours.output_bytes, np.uint8)
        stream.copy(output.ctypes.data, ours.output, output.nbytes)
        stream.synchronize()
        our_count = len(ours.read(output, [(300, 300)])[0])
    above = int((scores > 0.01).sum() / batch)
    times = found["torchvision_softmax_decode_clip_nms_ms"] / found["our_softmax_decode_clip_nms_ms"]
    counts = {"our_detections": our_count, "torchvision_detections": their_count}  # of the first image
    return {**found, "times_as_fast": times, **counts, "scores": source, "scores_above_an_image": above}


def preprocessing(bench: Bench, rows: list[Row]) -> None:
    """1920×1080 to 300×300."""

    def measure() -> Row:
        with ExitStack() as stack:
            stream = stack.enter_context(bench.cuda.stream())
            kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
            source = _uploaded(
                bench, stack, stream, np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
            )
            out = stack.enter_context(bench.cuda.memory(3 * 300 * 300)).address
            work = captured(
                stack, stream, lambda: preprocess_bgr(stream, kernels, source, 5760, (1080, 1920), out, (300, 300))
            )
            nothing = captured(stack, stream, lambda: stream.fill(out, 0, 1))
            return medians_ms(
                {
                    "gpu_ms": on_the_gpu(stack, bench.cuda, stream, work),
                    "graph_of_one_byte_ms": on_the_gpu(
                        stack, bench.cuda, stream, nothing
                    ),  # what the timing itself costs
                },
                bench.runs,
            )

    attempt(rows, {"frame": "1920×1080", "input": "300×300"}, measure)


def whole_graph(bench: Bench, rows: list[Row]) -> None:
    """The whole graph, from a frame in pinned memory or on the GPU to detections in pinned memory; the engine alone.

    What the processor does before and behind it is in `end_to_end`.
    """
    for arch in bench.checkpoints:
        for name, open_gpu in bench.detectors(arch, 1):
            attempt(rows, {"model": arch, "engine": name}, partial(_whole_graph_ms, bench, open_gpu))


def _whole_graph_ms(bench: Bench, open_gpu: Callable[[], GpuDetector]) -> Row:
    with ExitStack() as stack:
        detector = stack.enter_context(open_gpu())
        engine, cuda = detector.engine, detector.engine.cuda
        memory = stack.enter_context(cuda.memory(bench.frame.nbytes))
        engine.stream.copy(memory.address, bench.frame.ctypes.data, bench.frame.nbytes)
        graphs = {}
        for name, frame in {"from_pinned_ms": bench.frame, "from_gpu_ms": OnGpu(memory, bench.frame.shape)}.items():
            for _ in range(3):  # as it comes, captured, replayed
                detector([frame])
            graph = next(reversed(detector._slots[0].graphs.values()))
            if graph is None:
                raise RuntimeError("the pipeline was not captured")
            graphs[name] = graph
        graphs["engine_ms"] = stack.enter_context(engine.capture(partial(engine.enqueue, 1)))
        contenders = {
            name: on_the_gpu(stack, cuda, engine.stream, partial(graph.launch, engine.stream))
            for name, graph in graphs.items()
        }
        found = medians_ms(contenders, bench.runs)
    return {**found, "more_than_engine": found["from_gpu_ms"] / found["engine_ms"] - 1}


def end_to_end(bench: Bench, rows: list[Row]) -> None:
    """A frame in the processor's memory to detections there, batch 1, each model's own thresholds."""
    for arch, checkpoint in bench.checkpoints.items():
        attempt(
            rows,
            {"model": arch, "trained": bench.trained[arch]},
            partial(_end_to_end_ms, bench, arch, checkpoint),
        )


def _end_to_end_ms(bench: Bench, arch: str, checkpoint: Path) -> Row:
    peers: dict[str, Callable[[], Any]] = {
        "torchvision eager": lambda: torchvision_peer(checkpoint, bench.frame, compiled=False),
        "torchvision torch.compile": lambda: torchvision_peer(checkpoint, bench.frame, compiled=True),
        "ONNX Runtime CUDA": lambda: onnxruntime_cuda_peer(bench.folder / f"{arch}_fp32.onnx", bench.frame),
    }
    if bench.quick:
        del peers["torchvision torch.compile"]  # minutes
    contenders: dict[str, Contender] = {}
    row: Row = {}
    with ExitStack() as stack:

        def add(name: str, make: Callable[[], Callable[[], object]]) -> None:
            try:
                run = make()
                run()
                contenders[name] = on_the_clock(run)
            except Exception as error:
                if is_lost(error):
                    raise
                row[f"{name} failed"] = f"{type(error).__name__}: {error}"

        for name, open_peer in peers.items():
            add(name, partial(_entered, stack, open_peer))
        for name, open_gpu in bench.detectors(arch, 1):
            add(f"ssd-edge, {name}", partial(_our_peer, stack, open_gpu, bench.frame))
        row["ms"] = found = medians_ms(contenders, bench.runs)
    if eager := found.get("torchvision eager"):
        row["times_torchvision_eager"] = {name: eager / ms for name, ms in found.items()}
    return row


def _entered(stack: ExitStack, open_peer: Callable[[], Any]) -> Callable[[], object]:
    peer: Callable[[], object] = stack.enter_context(open_peer())
    return peer


def _our_peer(stack: ExitStack, open_gpu: Callable[[], GpuDetector], frame: Image) -> Callable[[], object]:
    return partial(stack.enter_context(open_gpu()), [frame])


def hardware_floor(bench: Bench, rows: list[Row]) -> None:
    """Engines at batch 32: share of what a matrix product reaches in half precision on this GPU."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = 4 if bench.quick else LARGE_BATCH
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize()

    peak = 2 * 8192**3 / medians_ms({"": on_the_clock(product)}, 20)[""] / 1e9  # TFLOPS
    for arch, checkpoint in bench.checkpoints.items():
        model, card = model_from_checkpoint(checkpoint)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(torch.zeros(1, 3, card.height, card.width))
        tera_flop = batch * counter.get_total_flops() / 1e12
        for name, open_gpu in bench.detectors(arch, batch):

            def measure(open_gpu: Callable[[], GpuDetector] = open_gpu, tera_flop: float = tera_flop) -> Row:
                with ExitStack() as stack:
                    engine = stack.enter_context(open_gpu()).engine
                    engine.enqueue(batch)
                    graph = stack.enter_context(engine.capture(partial(engine.enqueue, batch)))
                    run = on_the_gpu(stack, engine.cuda, engine.stream, partial(graph.launch, engine.stream))
                    ms = medians_ms({"": run}, bench.runs)[""]
                return {
                    "engine_ms": ms,
                    "images_per_second": 1e3 * batch / ms,
                    "tera_flop": tera_flop,
                    "share_of_matmul": tera_flop / (ms / 1e3) / peak,
                }

            attempt(rows, {"model": arch, "engine": name, "batch": batch, "matmul_tflops": peak}, measure)


SECTIONS: dict[str, Callable[[Bench, list[Row]], None]] = {
    "tensorrt": tensorrt,
    "correctness": correctness,
    "suppression": suppression,
    "preprocess": preprocessing,
    "whole_graph": whole_graph,
    "end_to_end": end_to_end,
    "hardware_floor": hardware_floor,
}


def run_sections(bench: Bench, names: list[str], figures: dict[str, Any], output: Path | None) -> None:
    """Fill `figures` section by section; what there is, is kept after each, until the GPU is lost."""
    for name in names:
        print(f"\n## {name}", flush=True)
        rows: list[Row] = []
        figures[name] = rows
        try:
            SECTIONS[name](bench, rows)
            lost = False
        except Exception as error:
            lost = is_lost(error)
            problem = "the GPU is lost: " if lost else ""
            rows.append({"failed": f"{problem}{type(error).__name__}: {error}"})
            traceback.print_exc()
        if output is not None:
            text = json.dumps({"machine": describe_machine(), **figures}, indent=2, ensure_ascii=False)
            output.write_text(text + "\n", encoding="utf-8")
        if lost:
            break


def print_table(figures: dict[str, Any]) -> None:
    """A line a row: names and figures."""
    for name, rows in figures.items():
        print(f"\n## {name}")
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                print("  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_frame(path: Path | None) -> Image:
    """640×480: the image, or a synthetic scene."""
    if path is not None:
        resized: Image = cv2.resize(load_image(path), (640, 480))
        return resized
    from ssd_edge.data.codes_scenes import CodesScenes

    image: Image = CodesScenes(0, (480, 640)).scene(0).image_bgr
    return image


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--ssdlite", type=Path, help="checkpoint of an SSDlite320 with 90 classes; random without it")
    parser.add_argument("--ssd300", type=Path, help="checkpoint of an SSD300-VGG16 with 90 classes; random without it")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[], help="further ONNX files to build and run")
    parser.add_argument(
        *("--map", "-m"),
        nargs=3,
        action="append",
        default=[],
        metavar=("MODEL", "DATA", "SPLIT"),
        help="compare mAP: a .pt, an .onnx or `bundled`, a dataset, and its split or `all`; may be repeated",
    )
    parser.add_argument("--frame", type=Path, help="image to detect in; a synthetic scene without it")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="few runs, batch 1, no torch.compile: does it work at all")
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    frame = read_frame(args.frame)
    try:
        opened = open_cuda()
    except (CudaError, MissingDependencyError) as error:
        parser.exit(1, f"{error}\n")
    with tempfile.TemporaryDirectory() as name, opened as cuda:
        folder = Path(name)
        given = {"ssdlite320_mobilenet_v3_large": args.ssdlite, "ssd300_vgg16": args.ssd300}
        checkpoints = {
            arch: path or untrained_checkpoint(arch, folder / f"{arch}.pt", np.ascontiguousarray(frame[..., ::-1]))
            for arch, path in given.items()
        }
        trained = {arch: path is not None for arch, path in given.items()}
        runs = 10 if args.quick else args.runs
        pairs = [tuple(pair) for pair in args.map]
        bench = Bench(cuda, folder, runs, args.quick, frame, checkpoints, trained, pairs, args.onnx)
        figures: dict[str, Any] = {
            "gpu": str(cuda.gpu),
            "versions": {"CUDA of PyTorch": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
            | {d.name: d.version for d in distributions() if d.name.startswith(("cuda-", "tensorrt", "pycuda"))},
            "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
            "runs": runs,
            "trained": trained,
        }
        run_sections(bench, args.sections, figures, args.output)
        print_table(figures)
    report(figures, args.output)


if __name__ == "__main__":
    main()
