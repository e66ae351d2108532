"""Checks of the NVIDIA GPU and of what runs models on it. Without a GPU nothing here is missed.

What imports NumPy is imported by its check alone: the doctor has to run where it does not load.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssd_edge.errors import MissingDependencyError, SsdEdgeError
from ssd_edge.packages import installed_version, is_installed
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding, problem
from ssd_edge.runtime.host.fixes import container_fix, driver_fix, driver_library_fix, extra_command, tensorrt_fix
from ssd_edge.runtime.host.kind import DRIVER_OF_CUDA, Host, read_host, version_numbers
from ssd_edge.runtime.tensorrt.versions import MODULES, load_tensorrt

SMI_FIELDS = ("name", "driver_version", "memory.total", "memory.free", "compute_cap")
SMI_SECONDS = 10.0
MIB = 1 << 20
GIVES_ENGINES = "models on the GPU: build and run engines"
GIVES_CUDA = "the GPU for engines and for all steps around them"


def gpu(root: Path = Path("/")) -> Finding:
    """GPUs and driver, as the driver's own tool has them."""
    host = read_host(root)
    gpus = _nvidia_smi()
    driver = gpus[0]["driver"] if gpus else host.driver
    facts = {"gpus": gpus, "driver": driver}
    if not gpus and not host.nvidia:
        return Finding(NONE, "no NVIDIA GPU: models run on the processor")
    if not gpus and not host.jetson:
        return _without_answer(host, facts)
    names = ", ".join(gpu["name"] for gpu in gpus) or host.board or "Jetson"
    summary = f"{names}, driver {driver or 'of JetPack'}"
    if driver and not host.jetson and version_numbers(driver) < DRIVER_OF_CUDA[12]:
        oldest = ".".join(map(str, DRIVER_OF_CUDA[12]))
        return Finding(PROBLEM, f"{summary}: too old, {oldest} is needed", facts, GIVES_CUDA, driver_fix(host))
    return Finding(OK, summary, facts)


def _without_answer(host: Host, facts: dict[str, Any]) -> Finding:
    from ssd_edge.runtime.gpu_use import NO_LIBRARY, driver_problem, without_library

    if host.driver and host.container:
        summary = f"driver {host.driver}, but no GPU in this container"
        return Finding(MISSING, summary, facts, GIVES_CUDA, container_fix(host))
    if host.driver and driver_problem() == NO_LIBRARY:
        return Finding(MISSING, without_library(host), facts, GIVES_CUDA, driver_library_fix(host))
    if host.driver:
        fix = "restart the machine, as an update of the driver needs it; nvidia-smi says more"
        return Finding(PROBLEM, f"driver {host.driver} does not answer", facts, GIVES_CUDA, fix)
    return Finding(MISSING, "an NVIDIA GPU without NVIDIA's driver", facts, GIVES_CUDA, driver_fix(host))


def _nvidia_smi() -> list[dict[str, Any]]:
    """Every GPU; none where the tool is not there or fails. A Jetson's leaves fields open."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    query = [tool, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=SMI_SECONDS)
    rows = [line.split(", ") for line in result.stdout.splitlines()] if result.returncode == 0 else []
    return [
        {
            "name": name,
            "driver": driver,
            "memory_bytes": int(total) * MIB if total.isdecimal() else None,
            "memory_free_bytes": int(free) * MIB if free.isdecimal() else None,
            "compute_capability": capability if capability[:1].isdecimal() else None,
        }
        for name, driver, total, free, capability in (row for row in rows if len(row) == len(SMI_FIELDS))
    ]


def cuda(root: Path = Path("/")) -> Finding:
    """The GPU as this package sees it, and what it sees it through."""
    from ssd_edge.runtime.cuda.errors import CudaError
    from ssd_edge.runtime.cuda.find import read_gpu
    from ssd_edge.runtime.gpu_use import NO_DEVICE, NO_LIBRARY, driver_problem, without_library

    host = read_host(root)
    facts: dict[str, Any] = {
        "cuda_bindings": installed_version("cuda-bindings"),
        "runtime": _runtime_version(),
        "driver_cuda": None,
        "gpu": None,
        "compute_capability": None,
    }
    packages = f"cuda-bindings {facts['cuda_bindings']}, runtime {facts['runtime']}"
    try:
        gpu = read_gpu()
    except MissingDependencyError as error:
        return _unusable(host, error, installed_version("cuda-core"), GIVES_CUDA)
    except CudaError as error:
        if not host.nvidia:
            return Finding(OK, f"{packages}; no GPU to use them on", facts)
        found = replace(problem(error), facts=facts, gives=GIVES_CUDA)
        asked = driver_problem()
        if host.container and asked in (NO_LIBRARY, NO_DEVICE):
            return replace(found, fix=container_fix(host))
        if host.driver and asked == NO_LIBRARY:
            return replace(found, summary=without_library(host), fix=driver_library_fix(host))
        return found
    facts |= {"driver_cuda": gpu.cuda_version, "gpu": gpu.name, "compute_capability": gpu.compute_capability}
    return Finding(OK, f"{gpu}; {packages}", facts)


def _runtime_version() -> str | None:
    """Of the CUDA runtime in cuda-bindings."""
    if installed_version("cuda-bindings") is None:
        return None
    number = importlib.import_module("cuda.bindings.runtime").cudaRuntimeGetVersion()[1]
    return f"{number // 1000}.{number % 1000 // 10}"


def nvrtc(root: Path = Path("/")) -> Finding:
    """What compiles the kernels for the GPU at hand."""
    host = read_host(root)
    if installed_version("cuda-bindings") is None:
        return _absent(host, GIVES_CUDA, extra_command(host.cuda_extra))
    bindings = importlib.import_module("cuda.bindings.nvrtc")
    try:
        _, major, minor = bindings.nvrtcVersion()
    except RuntimeError:  # cuda-bindings' word for a library that is not there
        return _absent(host, "resize and suppression on the GPU", extra_command(host.cuda_extra))
    return Finding(OK, f"{major}.{minor}", {"version": f"{major}.{minor}"})


def cuda_core(root: Path = Path("/")) -> Finding:
    """NVIDIA's cuda-core, the first choice of the CUDA layer."""
    from ssd_edge.runtime.cuda.core import load_api

    version = installed_version("cuda-core")
    try:
        load_api()
    except SsdEdgeError as error:
        gives = "CUDA graphs and the GPU for all steps around an engine"
        return _unusable(read_host(root), error, version, gives)
    return Finding(OK, str(version), {"version": version})


def pycuda() -> Finding:
    """PyCUDA, the second choice."""
    version = installed_version("pycuda")
    if version is None:
        return Finding(NONE, "not needed: only for SSD_EDGE_CUDA=pycuda")
    importlib.import_module("pycuda.driver")
    return Finding(OK, version, {"version": version})


def tensorrt(root: Path = Path("/")) -> Finding:
    """TensorRT: JetPack's on a Jetson, elsewhere that of the package index."""
    return _tensorrt("tensorrt", root)


def tensorrt_rtx(root: Path = Path("/")) -> Finding:
    """TensorRT-RTX, which builds without a GPU too."""
    return _tensorrt("rtx", root)


def _tensorrt(flavour: str, root: Path) -> Finding:
    host = read_host(root)
    try:
        trt = load_tensorrt(flavour)
    except MissingDependencyError:
        if host.jetson:
            rtx = Finding(NONE, "not for a Jetson, which has TensorRT")
            return rtx if flavour == "rtx" else _absent(host, GIVES_ENGINES, tensorrt_fix(host, root))
        if flavour == "rtx":
            return Finding(NONE, "not needed", {}, "build without a GPU", extra_command("rtx"))
        if any(map(is_installed, MODULES["rtx"])):
            return Finding(NONE, "TensorRT-RTX takes its place")
        return _absent(host, GIVES_ENGINES, tensorrt_fix(host, root))
    return Finding(OK, trt.version, {"version": trt.version})


def gpu_use(root: Path = Path("/")) -> Finding:
    """Whether models run on the GPU: what `stream` and `bench` ask, and then what it takes, imported."""
    from ssd_edge.runtime.cuda.find import read_gpu
    from ssd_edge.runtime.gpu_use import look_for_gpu

    use = look_for_gpu(root)
    if not use.present:
        return Finding(NONE, "models run on the processor: no NVIDIA GPU")
    try:
        use.check()
        gpu, trt = read_gpu(), load_tensorrt()
    except SsdEdgeError as error:
        return replace(problem(error), gives=GIVES_ENGINES)
    return Finding(OK, f"models run on {gpu.name} with {trt}")


def _unusable(host: Host, error: SsdEdgeError, version: str | None, gives: str) -> Finding:
    """A package for CUDA that is absent, too old, or broken."""
    if version is None:
        return _absent(host, gives, extra_command(host.cuda_extra))
    if not host.nvidia:
        return Finding(NONE, f"{version}, not usable, and not needed without an NVIDIA GPU")
    return replace(problem(error), gives=gives)


def _absent(host: Host, gives: str, fix: str) -> Finding:
    if host.nvidia:
        return Finding(MISSING, "not installed", {}, gives, fix)
    return Finding(NONE, "not needed without an NVIDIA GPU")
