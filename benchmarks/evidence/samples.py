"""Small inputs for the evidence script: labelled images for mAP, and an H.264 video for the GPU's decoder.

    python -m benchmarks.evidence.samples --images FOLDER --count 48 --video FILE.mp4

Needs the `demo` extra.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from ssd_edge.data.codes.scenes import CodesScenes
from ssd_edge.data.codes.write import write_coco

SEED = 20261201  # no training, no other figure
VIDEO_SIZE_HW = (1080, 1920)
VIDEO_SCENES, FRAMES_OF_A_SCENE, FPS = 6, 15, 30


def write_images(folder: Path, count: int) -> None:
    """A COCO dataset of synthetic scenes for the bundled model."""
    write_coco(folder, count=count, seed=SEED)


def write_video(path: Path, *, scenes: int = VIDEO_SCENES, size_hw: tuple[int, int] = VIDEO_SIZE_HW) -> None:
    """Synthetic scenes, half a second each: H.264, yuv420p, BT.709 with video range."""
    import av

    source = CodesScenes(SEED, size_hw)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for index in range(scenes):
            frame = av.VideoFrame.from_ndarray(source.scene(index).image_bgr, format="bgr24")
            converted = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            for number in range(FRAMES_OF_A_SCENE):
                converted.pts = index * FRAMES_OF_A_SCENE + number
                converted.time_base = Fraction(1, FPS)
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write labelled images and a video for gpu_evidence.sh.")
    parser.add_argument("--images", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--video", type=Path, metavar="FILE.mp4")
    parser.add_argument("--scenes", type=int, default=VIDEO_SCENES, help="half a second of video each")
    args = parser.parse_args()
    if args.images:
        write_images(args.images, args.count)
    if args.video:
        write_video(args.video, scenes=args.scenes)


if __name__ == "__main__":
    main()
