"""The sections that time the parts: suppression, preprocess, whole graph, end to end, and the floor of the hardware."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.gpu.bench import LARGE_BATCH, Bench
from benchmarks.gpu.cases import ssd300_boxes, uploaded
from benchmarks.gpu.inputs import import_peers, peers_of, ssd300_checkpoint, ssd300_scores
from benchmarks.gpu.models import Image, OnGpu
from benchmarks.gpu.record import Row, attempt, is_lost, need, reason
from benchmarks.gpu.timing import Contender, captured, medians_ms, on_the_clock, on_the_gpu
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.nms import Nms
from ssd_edge.runtime.cuda.preprocess import preprocess_bgr

SUPPRESSED_BATCHES = (1, 16)


def suppression(bench: Bench, rows: list[Row]) -> None:
    """NMS of SSD300: threshold 0.01, 400 candidates, IoU 0.45, 200 detections; then against torchvision's here.

    torchvision's cannot be parted from softmax, decoding and clipping. So ours is measured with them too: softmax and
    decoding by PyTorch, of the same logits and offsets; our kernels clip.
    """
    for batch in SUPPRESSED_BATCHES:
        attempt(rows, {"batch": batch}, partial(_suppression_ms, bench, batch))
        if batch == 1:  # thousands of small operations per image in torchvision: more of them tell nothing new
            attempt(rows, {"batch": batch, "against": "torchvision"}, partial(_suppression_peer_ms, bench, batch))
    times = [row["our_clip_nms_gpu_ms"] for row in rows if "our_clip_nms_gpu_ms" in row]
    if len(times) == 2:
        name = "our_clip_nms_gpu_ms of batch {1} / batch {0}".format(*SUPPRESSED_BATCHES)
        rows.append({name: times[1] / times[0]})


def _suppression(bench: Bench, stack: ExitStack, shape: tuple[int, int, int]) -> Nms:
    """With the limits that torchvision's SSD300 has."""
    return stack.enter_context(Nms(bench.cuda, bench.cuda.module(KERNEL_SOURCE, KERNELS), *shape, 400, 200))


def _suppression_ms(bench: Bench, batch: int) -> Row:
    _, scores, source = ssd300_scores(bench, batch)
    with ExitStack() as stack:
        stream = stack.enter_context(bench.cuda.stream())
        ours = _suppression(bench, stack, (batch, *scores.shape[1:]))
        addresses = [uploaded(stack, bench.cuda, stream, values) for values in (ssd300_boxes(batch), scores)]
        launch = captured(
            stack, stream, lambda: ours.launch(stream, *addresses, score_threshold=0.01, iou_threshold=0.45)
        )
        found = medians_ms({"our_clip_nms_gpu_ms": on_the_gpu(stack, bench.cuda, stream, launch)}, bench.runs)
    return {**found, "scores": source, "scores_above_per_image": int((scores > 0.01).sum() / batch)}


def _suppression_peer_ms(bench: Bench, batch: int) -> Row:
    import_peers()
    import torch

    from benchmarks.gpu.torch_peers import TorchvisionSuppression

    logits, scores, source = ssd300_scores(bench, batch)
    peer = TorchvisionSuppression(logits, ssd300_checkpoint(bench))
    with ExitStack() as stack, torch.inference_mode():
        peer.decode()
        torch.cuda.synchronize()
        stream = stack.enter_context(bench.cuda.stream())
        same_stream = torch.cuda.ExternalStream(stream.handle)  # type: ignore[no-untyped-call]
        ours = _suppression(bench, stack, (batch, *scores.shape[1:]))
        addresses = [peer.boxes.data_ptr(), peer.scores.data_ptr()]
        launch = captured(
            stack, stream, lambda: ours.launch(stream, *addresses, score_threshold=0.01, iou_threshold=0.45)
        )

        def theirs() -> None:
            peer.suppress()
            torch.cuda.synchronize()

        def ours_and_wait() -> None:
            with torch.cuda.stream(same_stream):
                peer.decode()
            launch()
            stream.synchronize()

        contenders: dict[str, Contender] = {
            "our_softmax_decode_clip_nms_ms": on_the_clock(ours_and_wait),
            "torchvision_softmax_decode_clip_nms_ms": on_the_clock(theirs),
        }
        found = medians_ms(contenders, bench.runs)
        output = np.empty(ours.output_bytes, np.uint8)
        stream.copy(output.ctypes.data, ours.output, output.nbytes)
        stream.synchronize()
        our_count = len(ours.read(output, [(300, 300)])[0])
        their_count = len(peer.suppress()[0]["labels"])
    times = found["torchvision_softmax_decode_clip_nms_ms"] / found["our_softmax_decode_clip_nms_ms"]
    counts = {"our_detections": our_count, "torchvision_detections": their_count}  # of the first image
    return {**found, "times_as_fast": times, **counts, "scores": source}


def preprocessing(bench: Bench, rows: list[Row]) -> None:
    """1920×1080 to 300×300."""

    def measure() -> Row:
        frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
        with ExitStack() as stack:
            stream = stack.enter_context(bench.cuda.stream())
            kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
            source = uploaded(stack, bench.cuda, stream, frame)
            out = stack.enter_context(bench.cuda.memory(3 * 300 * 300)).address
            work = captured(
                stack, stream, lambda: preprocess_bgr(stream, kernels, source, 5760, (1080, 1920), out, (300, 300))
            )
            nothing = captured(stack, stream, lambda: stream.fill(out, 0, 1))
            contenders = {
                "gpu_ms": on_the_gpu(stack, bench.cuda, stream, work),
                "graph_of_one_byte_ms": on_the_gpu(stack, bench.cuda, stream, nothing),  # what the timing itself costs
            }
            return medians_ms(contenders, bench.runs)

    attempt(rows, {"frame": "1920×1080", "input": "300×300"}, measure)
    if bench.cuda.gpu.integrated:
        about = {"frame": "1920×1080 in pinned memory", "input": "300×300"}
        attempt(rows, about, partial(_shared_memory_ms, bench))


def _shared_memory_ms(bench: Bench) -> Row:
    """What `SSD_EDGE_FRAMES` chooses between on a Jetson: the kernel on mapped memory, or on a copy."""
    frame_hw, size_hw, pitch = (1080, 1920), (300, 300), 3 * 1920
    size = frame_hw[0] * pitch
    with ExitStack() as stack:
        stream = stack.enter_context(bench.cuda.stream())
        kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
        pinned = stack.enter_context(bench.cuda.host_memory(size, mapped=True))
        pinned.array[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        on_gpu = stack.enter_context(bench.cuda.memory(size)).address
        out = stack.enter_context(bench.cuda.memory(3 * size_hw[0] * size_hw[1])).address

        def copy() -> None:
            stream.copy(on_gpu, pinned.array.ctypes.data, size)

        def resize(source: int) -> None:
            preprocess_bgr(stream, kernels, source, pitch, frame_hw, out, size_hw)

        def copy_and_resize() -> None:
            copy()
            resize(on_gpu)

        works: dict[str, Callable[[], None]] = {
            "mapped_ms": partial(resize, pinned.address),
            "copied_ms": copy_and_resize,
            "copy_alone_ms": copy,
        }
        contenders = {
            name: on_the_gpu(stack, bench.cuda, stream, captured(stack, stream, work)) for name, work in works.items()
        }
        return medians_ms(contenders, bench.runs)


def whole_graph(bench: Bench, rows: list[Row]) -> None:
    """The GPU's work from a frame in pinned memory or on the GPU to detections in pinned memory; the engine alone.

    Upload and preprocessing are launched before the graph, which has the engine, NMS and the copy of the results.
    What the CPU does before and behind it is in `end_to_end`.
    """
    for arch, _ in bench.each_model(rows):
        for name, open_gpu in bench.detectors(arch, 1):
            attempt(rows, {"model": arch, "engine": name}, partial(whole_graph_ms, bench, open_gpu))


def whole_graph_ms(bench: Bench, open_gpu: Callable[[], GpuDetector]) -> Row:
    """The times of one detector, which is closed.

    Raises:
        RuntimeError: its network was not captured.
    """
    with ExitStack() as stack:
        detector = stack.enter_context(open_gpu())
        engine, cuda = detector.engine, detector.engine.cuda
        memory = stack.enter_context(cuda.memory(bench.frame.nbytes))
        engine.stream.copy(memory.address, bench.frame.ctypes.data, bench.frame.nbytes)
        works: dict[str, Callable[[], None]] = {}
        for name, frame in {"from_pinned_ms": bench.frame, "from_gpu_ms": OnGpu(memory, bench.frame.shape)}.items():
            for _ in range(3):  # step by step, captured, replayed
                detector([frame])
            works[name] = detector.work_of([frame])
        if not detector.captured[0]:
            raise RuntimeError("the network was not captured")
        graph = stack.enter_context(engine.capture(partial(engine.enqueue, 1)))
        works["engine_ms"] = partial(graph.launch, engine.stream)
        contenders = {name: on_the_gpu(stack, cuda, engine.stream, work) for name, work in works.items()}
        found = medians_ms(contenders, bench.runs)
    return {**found, "more_than_engine": found["from_gpu_ms"] / found["engine_ms"] - 1}


def end_to_end(bench: Bench, rows: list[Row]) -> None:
    """A frame in the CPU's memory to detections there, batch 1, each model's own thresholds.

    torch.compile, which takes minutes and may fail, comes last, in rows of its own.
    """
    for compiled in (False,) if bench.quick else (False, True):
        for arch, model in bench.each_model(rows):
            peers = peers_of(bench, model, compiled=compiled)
            about = {"model": arch, "weights": model.weights, "against": list(peers)}
            attempt(rows, about, partial(_end_to_end_ms, bench, arch, peers))


def _end_to_end_ms(bench: Bench, arch: str, peers: dict[str, Callable[[], Any]]) -> Row:
    contenders: dict[str, Contender] = {}
    row: Row = {}

    def left_out(name: str, error: Exception) -> None:
        if is_lost(error):
            raise error
        row.update({f"{name} {key}": text for key, text in reason(error).items()})

    with ExitStack() as stack:

        def add(name: str, make: Callable[[], Callable[[], object]]) -> None:
            try:
                run = make()
                run()
                contenders[name] = on_the_clock(run)
            except Exception as error:
                left_out(name, error)

        for name, open_gpu in bench.detectors(arch, 1):
            add(f"ssd-edge, {name}", partial(_our_peer, stack, open_gpu, bench.frame))
        for name, open_peer in peers.items():
            add(name, partial(_entered, stack, open_peer))
        row["ms"] = found = medians_ms(contenders, bench.runs, left_out)
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
    need("torch", "safetensors")
    import torch

    from benchmarks.gpu.torch_peers import tera_flop

    batch = 4 if bench.quick else LARGE_BATCH
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize()

    peak = 2 * 8192**3 / medians_ms({"": on_the_clock(product)}, 20)[""] / 1e9  # TFLOPS
    for arch, model in bench.each_model(rows):
        if model.checkpoint is None:
            rows.append({"model": arch, "not_run": f"{model.file.name} is no checkpoint, whose arithmetic is counted"})
            continue
        count = cache(partial(tera_flop, model.checkpoint))
        for name, open_gpu in bench.detectors(arch, batch):

            def measure(open_gpu: Callable[[], GpuDetector] = open_gpu, count: Callable[[], float] = count) -> Row:
                work = batch * count()
                with ExitStack() as stack:
                    engine = stack.enter_context(open_gpu()).engine
                    engine.enqueue(batch)
                    graph = stack.enter_context(engine.capture(partial(engine.enqueue, batch)))
                    run = on_the_gpu(stack, engine.cuda, engine.stream, partial(graph.launch, engine.stream))
                    ms = medians_ms({"": run}, bench.runs)[""]
                return {
                    "engine_ms": ms,
                    "images_per_second": 1e3 * batch / ms,
                    "tera_flop": work,
                    "share_of_matmul": work / (ms / 1e3) / peak,
                }

            attempt(rows, {"model": arch, "engine": name, "batch": batch, "matmul_tflops": peak}, measure)
