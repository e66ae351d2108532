"""The synthetic `codes` scenes: reproducible, truthful labels, files that read back."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import zxingcpp

from ssd_edge.data.codes.backgrounds import TexturePool
from ssd_edge.data.codes.degrade import occlude
from ssd_edge.data.codes.print import LAYOUTS, ink_and_paper, make_print
from ssd_edge.data.codes.scenes import place
from ssd_edge.data.codes.symbols import EAN13, FORMATS, PDF417, random_symbol
from ssd_edge.data.codes.warp import Pose, bend, homography, outline, paste, project
from ssd_edge.data.codes.write import CATEGORY_IDS, CLASS_NAMES, CodesScenes, Scene, write_coco, write_video
from ssd_edge.errors import SinkError, UsageError

SIZE_HW = (240, 320)


def iou(one, other) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return width * height / (sum(areas) - width * height)


def decoded_box(barcode) -> np.ndarray:
    position = barcode.position
    corners = (position.top_left, position.top_right, position.bottom_right, position.bottom_left)
    points = np.array([[c.x, c.y] for c in corners], float)
    return np.concatenate([points.min(0), points.max(0)])


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image_bgr.tobytes() + scene.boxes_xyxy.tobytes() + scene.labels.tobytes()).hexdigest()


def test_class_names_and_ids():
    assert CLASS_NAMES == ("qr_code", "data_matrix", "aztec", "pdf417", "ean13")
    assert CATEGORY_IDS == (1, 2, 3, 4, 5)


# --- random access


def test_scene_does_not_depend_on_the_order_of_access():
    forwards = CodesScenes(7)
    backwards = CodesScenes(7)
    one = [digest(forwards.scene(i)) for i in range(8)]
    other = [digest(backwards.scene(i)) for i in reversed(range(8))]
    assert one == other[::-1]
    assert len(set(one)) == 8


def test_scene_is_the_same_in_another_process():
    code = (
        "import hashlib; from ssd_edge.data.codes.write import CodesScenes; s = CodesScenes(3).scene(41);"
        "parts = s.image_bgr.tobytes() + s.boxes_xyxy.tobytes() + s.labels.tobytes();"
        "print(hashlib.sha256(parts).hexdigest())"
    )
    root = Path(__file__).resolve().parents[4]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == digest(CodesScenes(3).scene(41))


def test_another_seed_gives_another_scene():
    assert digest(CodesScenes(1, SIZE_HW).scene(0)) != digest(CodesScenes(2, SIZE_HW).scene(0))


# --- scenes


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    source = CodesScenes(5)
    return [source.scene(i) for i in range(150)]


def test_boxes_lie_within_the_frame(scenes):
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


def test_all_classes_sizes_and_counts_appear(scenes):
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


def test_codes_do_not_cover_each_other(scenes):
    for scene in scenes:
        for i, box in enumerate(scene.boxes_xyxy):
            # Boxes of turned codes may touch at their corners though the codes do not.
            assert all(iou(box, other) < 0.35 for other in scene.boxes_xyxy[:i])


def test_size_is_kept():
    source = CodesScenes(1, (300, 200))
    assert all(source.scene(i).image_bgr.shape == (300, 200, 3) for i in range(5))


def test_tiny_frame_is_refused():
    with pytest.raises(UsageError, match="at least 64×64"):
        CodesScenes(1, (480, 32))


# --- truth


@pytest.mark.parametrize("label", range(5))
def test_decoder_finds_a_clean_code_where_the_label_says(label):
    rng = np.random.default_rng(label)
    read = 0
    for _ in range(6):
        symbol = random_symbol(rng, label)
        item = make_print(rng, symbol, 6, plain=True)
        # The decoder seeks bars along scan lines, and gives PDF417's corners roughly in a turned picture.
        angle, *tilts = np.zeros(3) if label in (PDF417, EAN13) else rng.uniform((0, -0.1, -0.1), (6.28, 0.1, 0.1))
        size = int(1.5 * max(item.bgra.shape))
        pose = Pose((size / 2, size / 2), 0.9, angle, *tilts, focal=3.0 * size)
        placed = place(item, outline(item.symbol_box), pose, (size, size), smallest_px=1.0)
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


def test_decoder_agrees_with_undegraded_scenes():
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


def test_box_has_no_quiet_zone():
    rng = np.random.default_rng(0)
    symbol = random_symbol(rng, 0)
    columns, rows = symbol.size_modules
    item = make_print(rng, symbol, 4, plain=True)
    left, top, right, bottom = item.symbol_box
    assert (right - left, bottom - top) == (4 * columns, 4 * rows)
    dark = np.argwhere(item.bgra[..., 0] < 128)
    assert dark.min(0).tolist() == [top, left]  # a finder pattern starts in the corner
    assert (dark.max(0) + 1).tolist() == [
        bottom,
        right,
    ]  # it has one at the lower left and the upper right too


def test_box_of_a_cut_code_is_its_visible_part():
    rng = np.random.default_rng(0)
    item = make_print(rng, random_symbol(rng, 0), 4, plain=True)
    side = item.symbol_box[2] - item.symbol_box[0]
    place_at = lambda x: place(  # noqa: E731
        item, outline(item.symbol_box), Pose((x, 200.0), 100 / side, 0.0), (400, 400), smallest_px=0.1
    )
    assert place_at(30.0).box_xyxy == pytest.approx([0, 150, 80, 250], abs=0.01)
    assert place_at(5.0) is None  # 55 % visible


def test_ink_stands_out_from_paper():
    rng = np.random.default_rng(0)
    luma = np.array([0.114, 0.587, 0.299])
    contrasts = [abs((ink - paper) @ luma) for ink, paper in (ink_and_paper(rng) for _ in range(300))]
    assert min(contrasts) >= 49


def test_every_layout_is_drawn_whole():
    rng = np.random.default_rng(0)
    for label in range(5):
        for surface in (None, 40.0, 200.0):
            for _ in range(2 * len(LAYOUTS)):
                item = make_print(rng, random_symbol(rng, label), 5, surface_luminance=surface)
                height, width = item.bgra.shape[:2]
                x0, y0, x1, y1 = item.symbol_box
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height
                assert (item.bgra[..., :3] <= item.bgra[..., 3:]).all()  # premultiplied


def test_occlusion_hides_a_quarter_at_most():
    hull = np.array([[60.0, 60.0], [180.0, 60.0], [180.0, 180.0], [60.0, 180.0]])
    pool = TexturePool(0)
    hidden = []
    for seed in range(150):
        frame = np.full((*SIZE_HW, 3), 7, np.uint8)
        occlude(np.random.default_rng(seed), frame, [hull], pool)
        hidden.append((frame != 7).any(axis=2)[60:180, 60:180].mean())
    assert 0.02 < max(hidden) <= 0.26
    assert np.count_nonzero(hidden) < 50  # most codes are whole


# --- geometry


def test_homography_without_tilt_is_a_similarity():
    pose = Pose(centre_xy=(50.0, 60.0), scale=2.0, angle=np.pi / 2)
    points = project(np.array([[10.0, 20.0], [11.0, 20.0]]), homography(pose, (10.0, 20.0), (30, 30)))
    assert points == pytest.approx(np.array([[50.0, 60.0], [50.0, 62.0]]))


def test_paste_puts_pixels_where_the_homography_says():
    frame = np.zeros((20, 20, 3), np.uint8)
    bgra = np.full((4, 6, 4), 255, np.uint8)
    matrix = np.array([[1, 0, 5], [0, 1, 7], [0, 0, 1.0]])
    paste(frame, bgra, matrix, module_px=10.0)
    ys, xs = np.nonzero(frame[..., 0] == 255)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (5, 10, 7, 10)
    assert frame.sum() == 4 * 6 * 3 * 255


def test_bend_moves_points_with_the_picture():
    bgra = np.zeros((100, 200, 4), np.uint8)
    cv2.circle(bgra, (150, 50), 3, (255, 255, 255, 255), -1)
    bent, points = bend(bgra, np.array([[150.5, 50.5]]), half_angle=1.0, bow=0.1)
    ys, xs = np.nonzero(bent[..., 0] > 128)
    assert points[0] == pytest.approx([xs.mean() + 0.5, ys.mean() + 0.5], abs=0.6)
    assert abs(points[0, 0] - 150.5) > 3  # it did bend


# --- files


def test_write_coco_reads_back(tmp_path):
    annotations = write_coco(tmp_path / "codes", count=4, seed=9, size_hw=SIZE_HW, first_index=10)
    coco = json.loads(annotations.read_text(encoding="utf-8"))
    assert annotations == tmp_path / "codes" / "annotations.json"
    assert [(c["id"], c["name"]) for c in coco["categories"]] == list(zip(CATEGORY_IDS, CLASS_NAMES, strict=True))
    assert [i["file_name"] for i in coco["images"]] == [f"codes_{i:06d}.jpg" for i in range(10, 14)]
    source = CodesScenes(9, SIZE_HW)
    for index, image in enumerate(coco["images"], start=10):
        scene = source.scene(index)
        picture = cv2.imread(str(tmp_path / "codes" / "images" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3) == (*SIZE_HW, 3)
        assert np.abs(picture.astype(int) - scene.image_bgr).mean() < 4  # JPEG
        mine = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in mine)]
        assert np.array(boxes).reshape(-1, 4) == pytest.approx(scene.boxes_xyxy, abs=0.02)
        assert [a["category_id"] - 1 for a in mine] == scene.labels.tolist()
    assert sorted(p.name for p in (tmp_path / "codes").iterdir()) == ["annotations.json", "images"]


def test_write_coco_refuses_nothing_and_says_where_it_cannot_write(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        write_coco(tmp_path, count=0, seed=0)
    in_the_way = tmp_path / "images" / "codes_000000.jpg"
    in_the_way.mkdir(parents=True)
    with pytest.raises(SinkError, match=r"cannot write .*codes_000000\.jpg"):
        write_coco(tmp_path, count=1, seed=0, size_hw=SIZE_HW)


@pytest.mark.parametrize("text", ['{"info": {"description": "mine"}}', "[]", "[" * 100_000, ""])
def test_files_of_others_are_not_overwritten(tmp_path, text):
    for name, write in (
        ("annotations.json", lambda: write_coco(tmp_path, count=1, seed=0, size_hw=SIZE_HW)),
        ("codes.json", lambda: write_video(tmp_path / "codes.mp4", seconds=0.1, fps=10, seed=0)),
    ):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(SinkError, match=f"{name} is not of ssd-edge codes"):
            write()
        assert file.read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.json", "codes.json"]  # nothing rendered


def test_own_files_are_replaced(tmp_path):
    for count in (1, 2):
        annotations = write_coco(tmp_path, count=count, seed=0, size_hw=SIZE_HW)
        assert len(json.loads(annotations.read_text())["images"]) == count
        assert len(write_video(tmp_path / "codes.mp4", seconds=count / 10, fps=10, seed=0)["images"]) == count


def test_video_has_smooth_truth_for_every_frame(tmp_path):
    path = tmp_path / "codes.mp4"
    truth = write_video(path, seconds=1.2, fps=20, seed=4, size_hw=SIZE_HW)
    assert truth == json.loads((tmp_path / "codes.json").read_text(encoding="utf-8"))
    assert truth["info"]["video"] == "codes.mp4"
    assert [i["file_name"] for i in truth["images"]] == [f"frame_{i:06d}" for i in range(24)]
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while (read := capture.read())[0]:
        assert read[1].shape == (*SIZE_HW, 3)
        frames += 1
    assert frames == 24
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes.json", "codes.mp4"]
    for category in CATEGORY_IDS:
        track = np.array([a["bbox"] for a in truth["annotations"] if a["category_id"] == category])
        assert len(track) == 24  # in every frame
        assert np.abs(np.diff(track, axis=0)).max() < 8
        assert np.abs(track[-1] - track[0]).max() > 1  # it does move
        assert (track[:, :2] >= 0).all()
        assert (track[:, :2] + track[:, 2:] <= SIZE_HW[::-1]).all()


def test_video_errors(tmp_path):
    with pytest.raises(UsageError, match=r"\.mp4"):
        write_video(tmp_path / "codes.avi", seconds=1, fps=10, seed=0)
    with pytest.raises(UsageError, match="no frame"):
        write_video(tmp_path / "codes.mp4", seconds=0, fps=10, seed=0)
    with pytest.raises(UsageError, match="at least 240×320"):
        write_video(tmp_path / "codes.mp4", seconds=1, fps=10, seed=0, size_hw=(100, 100))
    assert list(tmp_path.iterdir()) == []
