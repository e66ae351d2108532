from ssd_edge.bench.worker import BACKEND_NAMES
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.backends.tensorrt import TensorRTDetector
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.runtime.backends.torch_cuda import TorchCudaDetector


def test_every_back_end_has_a_name_in_the_report() -> None:
    classes = (OnnxDetector, TorchDetector, TorchCudaDetector, TensorRTDetector)
    assert {kind.__name__ for kind in classes} == set(BACKEND_NAMES)
