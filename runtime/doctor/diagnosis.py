"""`diagnose`: run all checks; what they found as a table with fixes, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.doctor import bundled_model, gpu, libraries, system
from ssd_edge.runtime.doctor.cameras import cameras
from ssd_edge.runtime.doctor.decoders import decoders
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from ssd_edge.runtime.doctor.isolation import Check, run_isolated
from ssd_edge.version import __version__

JSON_FORMAT = 1
TIMEOUT_S = 20.0  # PyTorch from a memory card takes many seconds
MARKS = {OK: "ok", NONE: "-", MISSING: "missing", PROBLEM: "PROBLEM"}

# The key of each in the JSON, its title, and what looks.
CHECKS: dict[str, tuple[str, Check]] = {
    "python": ("Python", system.python),
    "processor": ("processor", system.processor),
    "memory": ("memory", system.memory),
    "disk": ("disk", system.disk),
    "opencv": ("OpenCV", libraries.opencv),
    "onnxruntime": ("ONNX Runtime", libraries.onnxruntime),
    "model": ("bundled model", bundled_model.bundled),
    "cameras": ("cameras", cameras),
    "decoders": ("decoders", decoders),
    "jetpack": ("JetPack", system.jetpack),
    "gpu": ("GPU", gpu.gpu),
    "cuda": ("CUDA", gpu.cuda),
    "nvrtc": ("NVRTC", gpu.nvrtc),
    "cuda_core": ("cuda-core", gpu.cuda_core),
    "pycuda": ("PyCUDA", gpu.pycuda),
    "tensorrt": ("TensorRT", gpu.tensorrt),
    "tensorrt_rtx": ("TensorRT-RTX", gpu.tensorrt_rtx),
    "gpu_use": ("models on GPU", gpu.gpu_use),
    "torch": ("PyTorch", libraries.torch),
}
TIMED = ("model",)  # run when the others are done, as these would slow it down
NEEDED = ("opencv", "model")  # without which nothing can be streamed


@dataclass(frozen=True)
class Diagnosis:
    """What was found, by the keys of `CHECKS`."""

    findings: Mapping[str, Finding]

    @property
    def runs_on(self) -> str | None:
        """What `stream` runs an .onnx file on: `gpu`, `cpu`, or None where it cannot."""
        if any(self.findings[key].status == PROBLEM for key in NEEDED):
            return None
        return "gpu" if self.findings["gpu_use"].status == OK else "cpu"

    def table(self) -> str:
        """For people: a line a check, what `stream` runs on, then what to fix and what can be added."""
        titles = {key: title for key, (title, _) in CHECKS.items()}
        width = max(map(len, titles.values()))
        lines = [f"{MARKS[found.status]:7}  {titles[key]:{width}}  {found.summary}" for key, found in self._ordered()]
        unused = self.findings["gpu_use"]
        although = f", not on the GPU: {unused.summary}" if unused.status == PROBLEM else ""
        verdict = {
            "gpu": "Streams run on this machine, on the GPU.",
            "cpu": f"Streams run on this machine, on the processor{although}.",
            None: "Nothing can be streamed on this machine as it is.",
        }[self.runs_on]
        lines += ["", verdict]
        for heading, status in (("To fix:", PROBLEM), ("To add, if wanted:", MISSING)):
            fixes = [(titles[key], found) for key, found in self._ordered() if found.status == status and found.fix]
            lines += ["", heading] if fixes else []
            for title, found in fixes:
                lines += [f"  {title}" + (f", for {found.gives}" if found.gives else ""), f"      {found.fix}"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """All that the table says and more; the keys are in docs/doctor.md."""
        report = {
            "format": JSON_FORMAT,
            "ssd_edge": __version__,
            "runs_on": self.runs_on,
            "checks": {key: asdict(found) for key, found in self._ordered()},
        }
        return json.dumps(report, indent=2)

    def check(self) -> None:
        """Do nothing where streams run.

        Raises:
            SsdEdgeError: nothing can be streamed; with the reasons.
        """
        if self.runs_on is None:
            broken = {CHECKS[key][0]: self.findings[key] for key in NEEDED if self.findings[key].status == PROBLEM}
            reasons = "; ".join(f"{title}: {found.summary}" for title, found in broken.items())
            raise SsdEdgeError(f"nothing can be streamed on this machine: {reasons}; see the fixes above")

    def _ordered(self) -> list[tuple[str, Finding]]:
        return [(key, self.findings[key]) for key in CHECKS]


def diagnose(*, timeout_s: float = TIMEOUT_S) -> Diagnosis:
    """Look at this machine; takes as long as it takes to import PyTorch.

    Args:
        timeout_s: after which a check that has not answered is given up.
    """
    findings: dict[str, Finding] = {}
    for keys in ([key for key in CHECKS if key not in TIMED], TIMED):
        findings |= zip(keys, run_isolated([CHECKS[key][1] for key in keys], timeout_s=timeout_s), strict=True)
    return Diagnosis(findings)
