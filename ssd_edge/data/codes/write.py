"""Write scenes: a COCO dataset, or a video with its ground truth."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssd_edge.data.codes.motion import MovingScene
from ssd_edge.data.codes.scenes import CodesScenes, Scene
from ssd_edge.data.codes.symbols import CATEGORY_IDS, CLASS_NAMES
from ssd_edge.errors import SinkError, UsageError
from ssd_edge.files import atomic_path

JPEG_QUALITY = 95
# `info.description` of the files written here; a file that has it may be replaced.
SCENES = "synthetic scenes of printed codes"
VIDEO = "codes in motion"


def write_coco(
    folder: Path, *, count: int, seed: int, size_hw: tuple[int, int] | None = None, first_index: int = 0
) -> Path:
    """Write `count` scenes as a COCO dataset: `folder/images/*.jpg` and `folder/annotations.json`.

    The annotations come last, so a folder that has them is whole. Gives their path.

    Raises:
        UsageError: `count` is not positive, or a frame side is under 64 pixels.
        SinkError: the folder cannot be written to, or has annotations that are not of this function.
    """
    if count < 1:
        raise UsageError(f"count is {count}; ask for at least one scene")
    annotations = folder / "annotations.json"
    _refuse_foreign(annotations, SCENES)
    scenes = CodesScenes(seed, size_hw)
    coco = _Coco({"description": SCENES, "seed": seed})
    for index in tqdm(range(first_index, first_index + count), desc="scenes", unit="image", disable=None):
        scene = scenes.scene(index)
        name = f"codes_{index:06d}.jpg"
        encoded = cv2.imencode(".jpg", scene.image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        with atomic_path(folder / "images" / name) as part:
            part.write_bytes(encoded.tobytes())
        coco.add(name, scene)
    return coco.write(annotations)


def write_video(
    path: Path, *, seconds: float, fps: float, seed: int, size_hw: tuple[int, int] = (480, 640)
) -> dict[str, Any]:
    """Write codes in motion as MP4, and their boxes as COCO JSON beside it (suffix `.json`).

    Returns:
        The ground truth as written: one image a frame, `frame_000000` on; `info["video"]` names the file.

    Raises:
        UsageError: `path` does not end in .mp4, nothing to write, or the frame is under 240×320.
        SinkError: the file cannot be written, the JSON beside it is not of this function, or this OpenCV has no
            MP4 encoder.
    """
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path} does not end in .mp4, the only format written here; choose such a name")
    frames = round(seconds * fps)
    if frames < 1:
        raise UsageError(f"{seconds} s at {fps} frames a second make no frame; ask for more")
    moving = MovingScene(seed, size_hw)
    truth = path.with_suffix(".json")
    _refuse_foreign(truth, VIDEO)
    info = {"description": VIDEO, "seed": seed, "video": path.name, "fps": fps}
    coco = _Coco(info)
    with _video_writer(path, fps, size_hw) as writer:
        for index in tqdm(range(frames), desc="video", unit="frame", disable=None):
            scene = moving.frame(index / fps)
            writer.write(scene.image_bgr)
            coco.add(f"frame_{index:06d}", scene)
    coco.write(truth)
    return coco.data


@contextmanager
def _video_writer(path: Path, fps: float, size_hw: tuple[int, int]) -> Iterator[Any]:
    """A cv2.VideoWriter whose file takes the name `path` once it is whole."""
    with atomic_path(path) as part:
        unfinished = part.with_name(part.name + ".mp4")  # the encoder goes by the suffix
        writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_hw[::-1])
        try:
            if not writer.isOpened():
                raise SinkError(
                    f"cannot write {path}: OpenCV opened no MP4 encoder; "
                    "choose a writable folder, or install opencv-python from the package index"
                )
            yield writer
            writer.release()
            os.replace(unfinished, part)
        finally:
            writer.release()
            unfinished.unlink(missing_ok=True)


def _refuse_foreign(path: Path, description: str) -> None:
    """Raise SinkError if there is a file that was not written here: annotations may be work of weeks."""
    if not os.path.exists(path):
        return
    try:
        ours = json.loads(path.read_bytes())["info"]["description"] == description
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise SinkError(f"{path} is not of ssd-edge codes and would be overwritten; choose another name or folder")


class _Coco:
    """COCO JSON in the making."""

    def __init__(self, info: dict[str, Any]) -> None:
        categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)]
        self.data: dict[str, Any] = {"info": info, "images": [], "annotations": [], "categories": categories}

    def add(self, file_name: str, scene: Scene) -> None:
        """One image with its boxes; ids count from 1."""
        height, width = scene.image_bgr.shape[:2]
        image_id = len(self.data["images"]) + 1
        self.data["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for box, label in zip(scene.boxes_xyxy, scene.labels, strict=True):
            bbox = _xywh(box)
            annotation = {
                "id": len(self.data["annotations"]) + 1,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[int(label)],
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], 2),
                "iscrowd": 0,
            }
            self.data["annotations"].append(annotation)

    def write(self, path: Path) -> Path:
        with atomic_path(path) as part:
            part.write_text(json.dumps(self.data), encoding="utf-8")
        return path


def _xywh(box_xyxy: NDArray[np.float32]) -> list[float]:
    x0, y0, x1, y1 = (round(float(v), 2) for v in box_xyxy)
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
