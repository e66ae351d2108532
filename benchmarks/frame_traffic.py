"""Memory traffic of preprocessing a frame on a GPU that shares the processor's memory: read in place, or copied first.

    python -m benchmarks.frame_traffic

A model, not a measurement. It counts 32-byte sectors, the unit in which a GPU reads memory, for the loads of
`preprocess_bgr` in runtime/cuda/kernels.cu: two rows per pixel, in each the one or two aligned 8-byte words that hold
two pixels. A warp is 32 pixels along a row. In place, in mapped pinned memory, nothing is cached: every load
instruction of a warp reads its sectors again. A copy reads and writes the frame once; then every sector is read once.
"""

from __future__ import annotations

import numpy as np

SECTOR, WORD, WARP, CHANNELS = 32, 8, 32, 3
FRAMES_HW = ((480, 640), (720, 1280), (1080, 1920), (2160, 3840))
SIZE_HW = (300, 300)


def neighbours(size: int, frame_size: int) -> np.ndarray:
    """Indices of the two source pixels of each pixel along one axis, as cv2.resize has them: int [2, size]."""
    position = ((2 * np.arange(size) + 1) * frame_size - size) / (2 * size)
    low = np.floor(position).astype(int)
    both: np.ndarray = np.clip([low, low + 1], 0, frame_size - 1)
    return both


def traffic_bytes(frame_hw: tuple[int, int], size_hw: tuple[int, int]) -> dict[str, int]:
    """Bytes read and written for one frame, uint8 BGR without gaps between rows.

    Returns:
        `in_place`: by the kernel, uncached; `copied`: by the copy and the kernel; `copied_kernel`: of these, by the
        kernel alone.
    """
    pitch = CHANNELS * frame_hw[1]
    left, right = neighbours(size_hw[1], frame_hw[1])
    in_place, needed = 0, set()
    for row in neighbours(size_hw[0], frame_hw[0]).reshape(-1):
        first, end = row * pitch + CHANNELS * left, row * pitch + CHANNELS * (right + 1)  # bytes
        word = first // WORD * WORD
        two = end > word + WORD
        for lanes in range(0, len(left), WARP):
            warp = slice(lanes, lanes + WARP)
            for sectors in (word[warp] // SECTOR, (word[warp][two[warp]] + WORD) // SECTOR):
                in_place += len(np.unique(sectors))
                needed.update(sectors.tolist())
    kernel = SECTOR * len(needed)
    return {"in_place": SECTOR * in_place, "copied": 2 * frame_hw[0] * pitch + kernel, "copied_kernel": kernel}


def main() -> None:
    """Print a table in MB."""
    print("| frame | in place, all by the kernel | copied | of which by the kernel |\n|---|---|---|---|")
    for height, width in FRAMES_HW:
        megabytes = [f"{bytes_ / 1e6:.1f}" for bytes_ in traffic_bytes((height, width), SIZE_HW).values()]
        print(f"| {width}×{height} | {' | '.join(megabytes)} |")


if __name__ == "__main__":
    main()
