import os
from multiprocessing import Pipe
from pathlib import Path

import pytest

from ssd_edge.bench import worker
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.worker import BACKEND_NAMES, Failure, Job, serve
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.backends.tensorrt import TensorRTDetector
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.runtime.backends.torch_cuda import TorchCudaDetector


def test_every_back_end_has_a_name_in_the_report() -> None:
    classes = (OnnxDetector, TorchDetector, TorchCudaDetector, TensorRTDetector)
    assert {kind.__name__ for kind in classes} == set(BACKEND_NAMES)


@pytest.mark.parametrize(("options", "count"), [(BenchOptions(), None), (BenchOptions(spin=True), "300000")])
def test_threads_of_pytorch_spin_on_request_alone(
    monkeypatch: pytest.MonkeyPatch, options: BenchOptions, count: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "passive"})
    monkeypatch.setattr(worker, "begin_process", lambda: None)
    ours, theirs = Pipe()
    serve(theirs, Job(Path("nowhere.onnx"), (), options))
    assert isinstance(ours.recv(), Failure)
    assert os.environ.get("GOMP_SPINCOUNT") == count
