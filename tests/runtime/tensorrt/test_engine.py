"""Engines that load, and what is said of those that do not."""

from __future__ import annotations

import pytest

from ssd_edge.errors import ModelFileError, SsdEdgeError
from ssd_edge.runtime.tensorrt.engine import deserialise
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import Script


def test_engines_may_not_bring_code_for_the_host() -> None:
    script = Script()
    deserialise(fake_tensorrt(script), b"plan", source="m.engine")
    assert script.calls == [("deserialise", b"plan", False)]


@pytest.mark.parametrize(
    ("says", "kind", "message"),
    [
        (  # as TensorRT 10 says it
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == "
            "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 239, Serialized Engine "
            "Version: 240)",
            ModelFileError,
            "Version tag does not match.*build it again here",
        ),
        ("Error Code 1: Cuda Runtime (out of memory)", SsdEdgeError, "ran out of GPU memory"),
        ("cudaError 35: CUDA driver version is insufficient", SsdEdgeError, "no NVIDIA driver or GPU.*onnx"),
    ],
)
def test_engines_that_do_not_load(says: str, kind: type[SsdEdgeError], message: str) -> None:
    script = Script(loads=False, says=[(Severity.ERROR, says)])
    with pytest.raises(kind, match=rf"m\.engine: TensorRT 10\.3\.0 .*{message}") as caught:
        deserialise(fake_tensorrt(script), b"", source="m.engine")
    assert type(caught.value) is kind
