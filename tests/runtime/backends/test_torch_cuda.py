"""A PyTorch model in the GPU's pipeline, with its tensors where `HostCuda` has its memory; on a GPU: test_gpu.py."""

import gc
import itertools
import logging
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.host_cuda import HostCuda
from tests.fakes.torch_cuda import FakeGraph, FakeStream

torch = pytest.importorskip("torch")

from ssd_edge.checkpoint import model_from_checkpoint  # noqa: E402
from ssd_edge.errors import MissingDependencyError, SsdEdgeError  # noqa: E402
from ssd_edge.models.predict import Predictor  # noqa: E402
from ssd_edge.runtime.backends import torch_cuda as backend_torch_cuda  # noqa: E402
from ssd_edge.runtime.backends.torch import TorchDetector  # noqa: E402
from ssd_edge.runtime.backends.torch_cuda import TorchCudaDetector, TorchEngine  # noqa: E402
from ssd_edge.runtime.cuda.errors import CudaError, CudaFatalError, CudaMemoryError  # noqa: E402
from ssd_edge.runtime.detector import open_detector  # noqa: E402
from tests.detectors.tiny_detector import Tiny  # noqa: E402


@pytest.fixture
def waits() -> list[tuple[int, int]]:
    """Handles of the streams of PyTorch that waited, and of those they waited for."""
    return []


@pytest.fixture
def host(waits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    """PyTorch's CUDA calls do nothing, and its CPU tensors stand for those on the GPU."""
    cuda = HostCuda()
    cuda.has_graphs = False
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: FakeStream(handle, waits))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: FakeStream(0, waits))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    pools = itertools.count(1)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(pools)))
    monkeypatch.setattr(torch.cuda, "synchronize", None)  # would wait for a capture of another thread
    return cuda


def test_it_detects_what_the_model_does(tiny: Tiny, host: HostCuda) -> None:
    model, card = model_from_checkpoint(tiny.checkpoint)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (height, 90, 3), np.uint8) for height in (60, 120, 60)]
    with TorchDetector(model, card, score_threshold=0.01) as cpu:
        expected = [*cpu(frames[:2]), *cpu(frames[2:])]  # in the parts that the engine takes, which round alike
        outputs = cpu.infer(np.zeros((1, card.height, card.width, 3), np.uint8))
    with TorchCudaDetector(TorchEngine(model, card, cuda=host, batch=2), card, score_threshold=0.01) as detector:
        for _ in range(3):
            for got, wanted in zip(detector(frames), expected, strict=True):
                assert len(got) > 0
                np.testing.assert_array_equal(got.labels, wanted.labels)
                np.testing.assert_array_equal(got.scores, wanted.scores)
                np.testing.assert_array_equal(got.boxes_xyxy, wanted.boxes_xyxy)
        again = detector.infer(np.zeros((1, card.height, card.width, 3), np.uint8))
        for one, other in zip(again, outputs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert host.allocated == 0


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 20 GiB.\nmore"), CudaMemoryError, "20 GiB.; .*smaller"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), CudaFatalError, "start it again"),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore"),
            CudaError,
            r"on the device; this PyTorch .* has no kernels for this GPU: it was built for .*install a build for this",
        ),
        (RuntimeError("shape mismatch"), RuntimeError, "shape mismatch"),
    ],
)
def test_errors_of_pytorch(
    error: Exception, kind: type[Exception], message: str, tiny: Tiny, host: HostCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, card = model_from_checkpoint(tiny.checkpoint)

    def fail(*_: Any) -> None:
        raise error

    with TorchEngine(model, card, cuda=host, batch=2) as engine:
        monkeypatch.setattr(Predictor, "forward", fail)
        with pytest.raises(kind, match=message):
            engine.enqueue(2)
        monkeypatch.setattr(FakeGraph, "replay", fail)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
        with engine.capture(lambda: None) as captured, pytest.raises(kind, match=message):
            captured.launch(engine.stream)


def test_an_engine_waits_for_its_model_to_be_on_the_gpu(
    tiny: Tiny, host: HostCuda, waits: list[tuple[int, int]]
) -> None:
    model, card = model_from_checkpoint(tiny.checkpoint)
    with TorchEngine(model, card, cuda=host, batch=1) as engine:
        assert waits == [(engine.stream.handle, 0)]


def test_closing_an_engine_lets_go_of_its_model_and_memory(tiny: Tiny, host: HostCuda) -> None:
    model, card = model_from_checkpoint(tiny.checkpoint)
    alive = weakref.ref(model)
    engine = TorchEngine(model, card, cuda=host, batch=1)
    del model
    engine.infer(np.zeros((1, card.height, card.width, 3), np.uint8))
    engine.close()
    engine.close()
    gc.collect()
    assert alive() is None


def test_half_precision_casts_convolutions_once(tiny: Tiny, host: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    model, card = model_from_checkpoint(tiny.checkpoint)
    images = np.random.default_rng(0).integers(0, 256, (1, card.height, card.width, 3), np.uint8)
    with TorchDetector(model, card) as cpu:
        expected = cpu.infer(images)
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, *arguments, **options: autocast("cpu", *arguments, **options))
    with TorchEngine(model, card, cuda=host, half=True, batch=1) as engine:
        kinds = {
            type(m): m.weight.dtype for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)
        }
        assert kinds[torch.nn.Conv2d] == torch.float16
        assert kinds.get(torch.nn.BatchNorm2d, torch.float32) == torch.float32
        for got, wanted in zip(engine.infer(images), expected, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted, atol=0.02)


def test_a_graph_that_pytorch_cannot_capture(tiny: Tiny, host: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    model, card = model_from_checkpoint(tiny.checkpoint)

    class Refuses:
        def __init__(self, *_: Any, **options: Any) -> None:
            assert options["capture_error_mode"] == "thread_local"

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: Any) -> None:
            raise RuntimeError("CUDA error: operation would make the legacy stream depend on a capturing stream\nmore")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Refuses)
    with (
        TorchEngine(model, card, cuda=host, batch=1) as engine,
        pytest.raises(CudaError, match=r"capturing the network in PyTorch failed: CUDA error: operation .* stream;"),
    ):
        engine.capture(lambda: None)


def test_a_pool_that_no_graph_holds_is_not_used_again(
    tiny: Tiny, host: HostCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch asserts that a pool which it is given is in use."""
    pools: list[tuple[int, int]] = []

    def capture_into(*_: Any, pool: tuple[int, int], **__: Any) -> nullcontext[None]:
        pools.append(pool)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture_into)
    model, card = model_from_checkpoint(tiny.checkpoint)
    with TorchEngine(model, card, cuda=host, batch=1) as engine:
        one, other = (engine.capture(lambda: None) for _ in range(2))
        one.close()
        third = engine.capture(lambda: None)  # the other one holds it still
        for graph in (other, third, third):  # closing twice does no harm
            graph.close()
        engine.capture(lambda: None).close()
    assert pools == [(0, 1), (0, 1), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    "error", [CudaError("the driver is too old"), MissingDependencyError("no cuda-core", "cuda13")]
)
def test_without_our_cuda_layer_pytorch_runs_the_network_alone(
    error: SsdEdgeError, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(backend_torch_cuda, "open_cuda", fail)
    opened: list[tuple[Path, Any]] = []
    monkeypatch.setattr(TorchDetector, "open", lambda path, **options: opened.append((path, options)))
    with caplog.at_level(logging.WARNING):
        open_detector(tiny.checkpoint, device="cuda", score_threshold=0.5)
    assert opened == [(tiny.checkpoint, {"threads": None, "score_threshold": 0.5, "device": "cuda"})]
    assert f"only the network runs on the GPU: {error}" in caplog.text


def test_a_lost_gpu_is_not_passed_over(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise CudaFatalError("gone")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(backend_torch_cuda, "open_cuda", fail)
    with pytest.raises(CudaFatalError, match="gone"):
        open_detector(tiny.checkpoint, device="cuda:1")
