"""The table, the JSON and the exit status."""

import subprocess
import sys

import pytest

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.doctor.diagnosis import CHECKS, Diagnosis
from ssd_edge.runtime.doctor.finding import MISSING, NONE, PROBLEM, Finding
from tests.runtime.doctor.findings import findings


def test_the_table() -> None:
    missing = Finding(MISSING, "not installed", {}, "training", "pip install it")
    wrong = Finding(PROBLEM, "no permission", {}, None, "usermod")
    lines = (
        Diagnosis(findings(torch=missing, cameras=wrong, gpu_use=Finding(NONE, "no NVIDIA GPU"))).table().splitlines()
    )
    assert lines[0] == "ok       Python         fine"
    assert "PROBLEM  cameras        no permission" in lines
    assert "-        models on GPU  no NVIDIA GPU" in lines
    assert lines[len(CHECKS) :] == [
        *("", "Streams run on this machine, on the processor."),
        *("", "To fix:", "  cameras", "      usermod"),
        *("", "To add, if wanted:", "  PyTorch, for training", "      pip install it"),
    ]


def test_what_streams_run_on() -> None:
    unused = Finding(PROBLEM, "cuda-core is not installed here", fix="install it")
    assert Diagnosis(findings()).runs_on == "gpu"
    assert "Streams run on this machine, on the GPU." in Diagnosis(findings()).table()
    assert Diagnosis(findings(gpu_use=Finding(NONE, "no NVIDIA GPU"))).runs_on == "cpu"
    assert Diagnosis(findings(gpu_use=unused)).runs_on == "cpu"
    assert (
        ", on the processor, not on the GPU: cuda-core is not installed here."
        in Diagnosis(findings(gpu_use=unused)).table()
    )


@pytest.mark.parametrize("key", ["model", "opencv"])
def test_without_the_base_nothing_streams(key: str) -> None:
    broken = Diagnosis(findings(**{key: Finding(PROBLEM, "it crashed")}))
    assert broken.runs_on is None
    assert "Nothing can be streamed" in broken.table()
    with pytest.raises(SsdEdgeError, match="it crashed"):
        broken.check()
    Diagnosis(findings()).check()


def test_the_doctor_itself_imports_nothing_that_may_not_load() -> None:
    code = (
        "import sys, ssd_edge.runtime.doctor.diagnosis; "
        "print(*{'numpy', 'cv2', 'onnxruntime', 'torch', 'cuda', 'tensorrt', 'tqdm'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "\n")
