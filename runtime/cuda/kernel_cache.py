"""CUDA C++ to machine code of one GPU, by NVRTC; kept on disk, so that it is compiled once.

The cache lies in `~/.cache/ssd-edge/kernels`, or in `kernels` of the folder that `SSD_EDGE_CACHE` names. A file's name
tells what it is good for: the architecture, NVRTC's version, source and options. Delete the folder to be rid of it.

NVRTC needs no GPU: https://docs.nvidia.com/cuda/nvrtc/.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Sequence
from typing import Any

from ssd_edge.errors import MissingDependencyError, SinkError
from ssd_edge.files import atomic_path, kernel_cache_folder
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.host.fixes import extra_command
from ssd_edge.runtime.host.kind import read_host

logger = logging.getLogger(__name__)

# Without fused multiply-add the overlap of two boxes rounds as NumPy rounds it.
OPTIONS = ("--std=c++17", "--fmad=false")
DIGEST_BYTES = 32


def compile_kernels(source: str, compute_capability: str, options: Sequence[str] = OPTIONS) -> bytes:
    """Compile CUDA C++, or take it from the cache. A cache that cannot be read or written is done without.

    Args:
        compute_capability: of the GPU, such as `8.7`.
        options: of NVRTC, without the architecture.

    Returns:
        Machine code; for a GPU newer than NVRTC, PTX, which the driver compiles.

    Raises:
        MissingDependencyError: no NVRTC.
        CudaError: it refuses the source; with its log.
    """
    nvrtc = Nvrtc()
    architecture = nvrtc.architecture(compute_capability)
    key = hashlib.sha256("\0".join([source, *options]).encode()).hexdigest()
    name = f"{architecture}-nvrtc{nvrtc.version}-{key[:32]}.bin"
    code = _read(name)
    if code is None:
        code = nvrtc.compile(source, [f"--gpu-architecture={architecture}", *options])
        _write(name, code)
    return code


def is_machine_code(code: bytes) -> bool:
    """Whether it is a cubin, and not PTX."""
    return code.startswith(b"\x7fELF")


def _read(name: str) -> bytes | None:
    try:
        content = (kernel_cache_folder() / name).read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    code = content[DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == content[:DIGEST_BYTES] else None


def _write(name: str, code: bytes) -> None:
    try:
        with atomic_path(kernel_cache_folder() / name) as part:
            part.write_bytes(hashlib.sha256(code).digest() + code)
    except (SinkError, RuntimeError) as error:
        logger.debug("compiled kernels are not kept: %s", error)


class Nvrtc:
    """NVRTC through cuda-bindings.

    Attributes:
        version: such as `13.0`.

    Raises:
        MissingDependencyError: cuda-bindings or the library is absent.
    """

    def __init__(self) -> None:
        try:
            self._api: Any = importlib.import_module("cuda.bindings.nvrtc")
            major, minor = self._call("nvrtcVersion")
        except (ImportError, RuntimeError) as error:  # RuntimeError: the bindings find no library
            raise MissingDependencyError(
                f"running on a GPU needs NVRTC, which compiles its kernels, and it is not installed or does not load "
                f"({error})",
                extra=read_host().cuda_extra,
            ) from error
        self.version = f"{major}.{minor}"

    def architecture(self, compute_capability: str) -> str:
        """`sm_87` for `8.7`; for one that this NVRTC does not know yet, the newest before it, as PTX: `compute_87`.

        Raises:
            CudaError: it knows none that old.
        """
        wanted = int(compute_capability.replace(".", ""))
        known = self._call("nvrtcGetSupportedArchs")
        if wanted in known:
            return f"sm_{wanted}"
        older = [architecture for architecture in known if architecture < wanted]
        if not older:
            raise CudaError(
                f"NVRTC {self.version} compiles for compute capability {min(known) / 10} and newer, and this GPU has "
                f"{compute_capability}; take the packages for CUDA 12: {extra_command('cuda12')}"
            )
        return f"compute_{max(older)}"

    def compile(self, source: str, options: list[str]) -> bytes:
        """
        Raises:
            CudaError: NVRTC refuses the source; with its log.
        """
        program = self._call("nvrtcCreateProgram", source.encode(), b"ssd_edge.cu", 0, [], [])
        try:
            status = self._api.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
            if status != 0:
                log = self._bytes("nvrtcGetProgramLog", program).rstrip(b"\0\n").decode(errors="replace")
                raise CudaError(f"NVRTC {self.version} does not compile the kernels ({' '.join(options)}):\n{log}")
            ptx = options[0].startswith("--gpu-architecture=compute")
            return self._bytes("nvrtcGetPTX" if ptx else "nvrtcGetCUBIN", program)
        finally:
            self._call("nvrtcDestroyProgram", program)

    def _bytes(self, name: str, program: Any) -> bytes:
        content = bytearray(self._call(f"{name}Size", program))
        self._call(name, program, content)
        return bytes(content)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._api, name)(*arguments)
        if status != 0:
            raise CudaError(f"{name} failed: {status.name}")
        return values[0] if len(values) == 1 else values
