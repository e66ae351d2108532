"""Scenes: reproducible, with truthful labels."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zxingcpp

from ssd_edge.data.codes.print import make_print
from ssd_edge.data.codes.scenes import CodesScenes, PlacedPrint, Scene, place
from ssd_edge.data.codes.symbols import EAN13, FORMATS, PDF417, random_symbol
from ssd_edge.data.codes.warp import Pose, outline, paste
from ssd_edge.errors import UsageError
from tests.ssd_edge.data.codes.boxes import decoded_box, iou

SIZE_HW = (240, 320)


def digest(scene: Scene) -> str:
    """Of all that a scene is."""
    return hashlib.sha256(scene.image_bgr.tobytes() + scene.boxes_xyxy.tobytes() + scene.labels.tobytes()).hexdigest()


def test_scene_does_not_depend_on_the_order_of_access() -> None:
    forwards = CodesScenes(7)
    backwards = CodesScenes(7)
    one = [digest(forwards.scene(i)) for i in range(8)]
    other = [digest(backwards.scene(i)) for i in reversed(range(8))]
    assert one == other[::-1]
    assert len(set(one)) == 8


def test_scene_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from ssd_edge.data.codes.scenes import CodesScenes; s = CodesScenes(3).scene(41);"
        "parts = s.image_bgr.tobytes() + s.boxes_xyxy.tobytes() + s.labels.tobytes();"
        "print(hashlib.sha256(parts).hexdigest())"
    )
    root = Path(__file__).resolve().parents[4]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    assert printed.stdout.strip() == digest(CodesScenes(3).scene(41))


def test_another_seed_gives_another_scene() -> None:
    assert digest(CodesScenes(1, SIZE_HW).scene(0)) != digest(CodesScenes(2, SIZE_HW).scene(0))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    source = CodesScenes(5)
    return [source.scene(i) for i in range(150)]


def test_boxes_lie_within_the_frame(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.image_bgr.shape[:2]
        boxes = scene.boxes_xyxy
        assert scene.image_bgr.dtype == np.uint8
        assert boxes.dtype == np.float32
        assert boxes.shape == (len(scene.labels), 4)
        assert scene.labels.dtype == np.int64
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 10).all()


def test_all_classes_sizes_and_counts_appear(scenes: list[Scene]) -> None:
    counts = np.bincount(np.concatenate([s.labels for s in scenes]), minlength=5)
    assert counts.min() > 0.5 * counts.mean()
    assert {0, 1, 2, 3} <= {len(s.labels) for s in scenes} <= set(range(7))
    assert len({s.image_bgr.shape for s in scenes}) > 5
    shares = [
        np.sqrt((b[2] - b[0]) * (b[3] - b[1]) / (s.image_bgr.shape[0] * s.image_bgr.shape[1]))
        for s in scenes
        for b in s.boxes_xyxy
    ]
    assert min(shares) < 0.1
    assert max(shares) > 0.8


def test_codes_do_not_cover_each_other(scenes: list[Scene]) -> None:
    for scene in scenes:
        for i, box in enumerate(scene.boxes_xyxy):
            # Boxes of turned codes may touch at their corners though the codes do not.
            assert all(iou(box, other) < 0.35 for other in scene.boxes_xyxy[:i])


def test_size_is_kept() -> None:
    source = CodesScenes(1, (300, 200))
    assert all(source.scene(i).image_bgr.shape == (300, 200, 3) for i in range(5))


def test_tiny_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 64×64"):
        CodesScenes(1, (480, 32))


@pytest.mark.parametrize("label", range(5))
def test_decoder_finds_a_clean_code_where_the_label_says(label: int) -> None:
    rng = np.random.default_rng(label)
    read = 0
    for _ in range(6):
        symbol = random_symbol(rng, label)
        item = make_print(rng, symbol, 6, plain=True)
        # The decoder seeks bars along scan lines, and gives PDF417's corners roughly in a turned picture.
        turned = np.zeros(3) if label in (PDF417, EAN13) else rng.uniform((0, -0.1, -0.1), (6.28, 0.1, 0.1))
        angle, tilt_x, tilt_y = turned.tolist()
        size = int(1.5 * max(item.bgra.shape))
        pose = Pose((size / 2, size / 2), 0.9, angle, tilt_x, tilt_y, focal=3.0 * size)
        placed = place(item, outline(item.symbol_box), pose, (size, size), smallest_px=1.0)
        assert placed is not None
        frame = np.full((size, size, 3), 180, np.uint8)
        paste(frame, item.bgra, placed.matrix, module_px=placed.module_px)
        for barcode in zxingcpp.read_barcodes(frame, formats=FORMATS[label]):
            read += 1
            assert barcode.text == symbol.text
            found = decoded_box(barcode)
            if label == EAN13:  # the decoder gives a scan line or a part of the bars' height
                assert found[[0, 2]] == pytest.approx(placed.box_xyxy[[0, 2]], abs=0.03 * size)
                assert placed.box_xyxy[1] - 6 <= found[1] <= found[3] <= placed.box_xyxy[3] + 6
            else:
                assert iou(found, placed.box_xyxy) > 0.8
    assert read >= 5


def test_decoder_agrees_with_undegraded_scenes() -> None:
    source = CodesScenes(5, (480, 640), degraded=False)
    agreed = 0
    for index in range(40):
        scene = source.scene(index)
        for barcode in zxingcpp.read_barcodes(scene.image_bgr):
            overlaps = [iou(decoded_box(barcode), box) for box in scene.boxes_xyxy]
            label = int(scene.labels[int(np.argmax(overlaps))])
            assert FORMATS[label] in (barcode.format, barcode.symbology)
            if label not in (PDF417, EAN13):
                assert max(overlaps) > 0.8
            agreed += 1
    assert agreed > 30


def test_box_of_a_cut_code_is_its_visible_part() -> None:
    rng = np.random.default_rng(0)
    item = make_print(rng, random_symbol(rng, 0), 4, plain=True)
    side = item.symbol_box[2] - item.symbol_box[0]

    def place_at(x: float) -> PlacedPrint | None:
        return place(item, outline(item.symbol_box), Pose((x, 200.0), 100 / side, 0.0), (400, 400), smallest_px=0.1)

    cut = place_at(30.0)
    assert cut is not None
    assert cut.box_xyxy == pytest.approx([0, 150, 80, 250], abs=0.01)
    assert place_at(5.0) is None  # 55 % visible
