"""NVRTC, which compiles the kernels on a user's machine, takes them for every GPU that is supported: it needs none."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from ssd_edge.runtime.cuda.kernel_cache import OPTIONS
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="no cuda-bindings, which bring NVRTC to Python")

ARCHITECTURES = (75, 80, 86, 87, 89, 90, 110, 120)  # Turing … Blackwell; 87 is Orin's, 110 Thor's
REGISTERS = 65536  # that a block can have, on all of these


class Compiled(NamedTuple):
    machine_code: bytes
    ptx: bytes
    log: str  # of NVRTC and its assembler


def call(name: str, *arguments: Any) -> Any:
    try:
        status, *results = getattr(nvrtc, name)(*arguments)
    except RuntimeError as error:  # the bindings are there without the library
        pytest.skip(f"no NVRTC: {error}")
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{name}: {status}"
    return results[0] if results else None


def read(program: Any, name: str) -> bytes:
    text: bytes = b" " * call(f"nvrtcGet{name}Size", program)
    call(f"nvrtcGet{name}", program, text)
    return text


def compiled(architecture: int, source: str = KERNEL_SOURCE, options: Sequence[str] = OPTIONS) -> Compiled:
    known = call("nvrtcGetSupportedArchs")
    if architecture not in known:
        pytest.skip(f"this NVRTC does not know sm_{architecture}, but {known}")
    options = (f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v", *options)
    program = call("nvrtcCreateProgram", source.encode(), b"kernels.cu", 0, [], [])
    try:
        call("nvrtcCompileProgram", program, len(options), [option.encode() for option in options])
        return Compiled(read(program, "CUBIN"), read(program, "PTX"), read(program, "ProgramLog").decode())
    finally:
        call("nvrtcDestroyProgram", program)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles(architecture: int) -> None:
    code, _, log = compiled(architecture)
    assert all(name.encode() in code for name in KERNELS)
    assert "warning" not in log
    assert set(re.findall(r"(\d+) bytes spill", log)) == {"0"}
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) == len(KERNELS)
    assert 1024 * max(registers) <= REGISTERS  # so the largest block can start


def test_a_warning_would_be_seen() -> None:
    assert "warning" in compiled(75, KERNEL_SOURCE + "__device__ int unset() { int value; return value; }").log


def test_no_rounding_is_left_to_the_compiler() -> None:
    # By default NVRTC fuses a * b + c, which rounds once instead of twice. The source spells out what may not be fused.
    fusing = ["--std=c++17"]
    assert b"fma." in compiled(75, "__global__ void fused(float* x) { x[0] = x[1] * x[2] + x[3]; }", fusing).ptx
    ptx = compiled(75, options=fusing).ptx
    assert b"mul.rn.f32" in ptx
    assert b"fma." not in ptx


def test_scores_and_frames_are_read_in_wide_loads() -> None:
    parts = compiled(75).ptx.split(b".entry ")[1:]
    entries = {part.partition(b"(")[0].decode(): part for part in parts}
    assert entries.keys() == set(KERNELS)
    assert entries["nms_collect"].count(b"ld.global.nc.v4.f32") >= 2  # scores, and a box for each of four
    assert entries["preprocess_bgr"].count(b"ld.global.nc.u64") == 4  # two words of two rows
    assert entries["preprocess_yuv"].count(b"ld.global.nc.u64") == 8
    assert all(b".local" not in entry for entry in entries.values())  # small arrays are in registers
