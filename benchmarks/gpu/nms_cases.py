"""Preprocess and suppression on hard inputs, against the CPU's, with few launches: for compute-sanitizer and ncu.

    compute-sanitizer --tool racecheck python -m benchmarks.gpu.nms_cases --cases hard
    ncu --kernel-name regex:nms_ python -m benchmarks.gpu.nms_cases --cases ssd300

Exit status 0: all equal; 1: the cases that differ are named, or there is no GPU. Needs cuda-core, NumPy and OpenCV.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.cases import NmsCase, differing_images, found_by, hard_cases, ssd300_case, uploaded
from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.cuda.base import Cuda
from ssd_edge.runtime.cuda.find import open_cuda
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import Plane, preprocess_bgr, preprocess_yuv
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.preprocess import preprocess

LEVELS = 1  # OpenCV rounds differently on different processors
Sizes = tuple[tuple[int, int], tuple[int, int]]  # (H, W) of a frame and of a model
SIZES_HW: tuple[Sizes, ...] = (
    ((1080, 1920), (300, 300)),
    ((34, 78), (320, 320)),
    ((33, 77), (320, 320)),
    ((1, 1), (8, 8)),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--cases", choices=("hard", "ssd300"), default="hard", help="hard inputs, or SSD300's size (default: hard)"
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="runs of each case (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="make the cases and their results on the CPU only")
    args = parser.parse_args()
    # At SSD300's size each kernel is launched once: ncu profiles all launches, and takes time for each.
    cases, sizes_hw = (hard_cases(), SIZES_HW) if args.cases == "hard" else ([ssd300_case()], SIZES_HW[:1])
    if args.dry_run:
        found = sum(len(image) for case in cases for image in case.expected())
        print(f"dry run: {len(cases)} cases with {found} detections in all")
        return
    try:
        with open_cuda() as cuda:
            differing = list(differences(cuda, cases, args.repeat, sizes_hw))
    except SsdEdgeError as error:
        parser.exit(1, f"{error}\n")
    for line in differing:
        print(line)
    print(f"{len(differing)} differences in {len(cases)} cases of NMS and {len(sizes_hw)} of preprocess")
    raise SystemExit(1 if differing else 0)


def differences(
    cuda: Cuda, cases: list[NmsCase], repeat: int = 1, sizes_hw: Sequence[Sizes] = SIZES_HW
) -> Iterator[str]:
    """A line for each case that the GPU gets wrong."""
    for frame_hw, size_hw in sizes_hw:
        for name, levels in preprocess_levels(cuda, frame_hw, size_hw).items():
            if levels > LEVELS:
                yield f"{name} of {frame_hw} to {size_hw}: {levels} levels apart; expected at most {LEVELS}"
    for case in cases:
        expected = case.expected()
        for run, found in enumerate(found_by(cuda, case, repeat=repeat)):
            if images := differing_images(found, expected):
                yield f"NMS of {case.name}: run {run} differs from runtime/nms.py in images {images}"


def preprocess_levels(cuda: Cuda, frame_hw: tuple[int, int], size_hw: tuple[int, int]) -> dict[str, int]:
    """Largest difference of each kernel from the CPU's, in levels of 0–255; of YUV with even sides."""
    rng = np.random.default_rng(0)
    bgr = rng.integers(0, 256, (*frame_hw, 3), np.uint8)
    kernels = cuda.module(KERNEL_SOURCE, KERNELS)
    levels = {}
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        got = np.empty((*size_hw, 3), np.uint8)
        out = stack.enter_context(cuda.memory(got.nbytes)).address

        def compare(name: str, expected: NDArray[np.uint8]) -> None:
            stream.copy(got.ctypes.data, out, got.nbytes)
            stream.synchronize()
            levels[name] = int(np.abs(got.astype(int) - expected).max())

        preprocess_bgr(stream, kernels, uploaded(stack, cuda, stream, bgr), 3 * frame_hw[1], frame_hw, out, size_hw)
        compare("preprocess_bgr", preprocess(bgr, size_hw))
        # Of odd sides the CPU's conversion has 10 bits behind the point, and the kernel 20.
        height, width = (max(2, side // 2 * 2) for side in frame_hw)
        luma = rng.integers(0, 256, (height, width), np.uint8)
        chroma = rng.integers(0, 256, (height // 2, width // 2, 2), np.uint8)
        planes = [
            Plane(uploaded(stack, cuda, stream, plane), plane.strides[0], *plane.shape[:2]) for plane in (luma, chroma)
        ]
        preprocess_yuv(stream, kernels, planes[0], planes[1], out, size_hw)
        compare("preprocess_yuv", preprocess(YuvPlanes(luma, (chroma,)), size_hw))
    return levels


if __name__ == "__main__":
    main()
