"""A checkpoint opened as a detector gives what its model gives."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ssd_edge.card import ModelCard  # noqa: E402
from ssd_edge.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError  # noqa: E402
from ssd_edge.models.create import create_model  # noqa: E402
from ssd_edge.models.predict import Predictor  # noqa: E402
from ssd_edge.models.ssd import SSD  # noqa: E402
from ssd_edge.runtime.detector import open_detector  # noqa: E402
from ssd_edge.runtime.nms import nms  # noqa: E402
from ssd_edge.runtime.preprocess import preprocess  # noqa: E402


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_detects_as_its_model(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    model = create_model("ssdlite320_mobilenet_v3_large", 2).eval()
    config = model.config
    card = ModelCard(
        arch=config.arch,
        height=config.size_hw[0],
        width=config.size_hw[1],
        class_names=("a", "b"),
        category_ids=(1, 2),
        mean=config.mean,
        std=config.std,
        score_threshold=0.2,
        nms_iou=0.5,
        candidates=50,
        detections=20,
    )
    path = tmp_path / f"model{suffix}"
    save_checkpoint(path, Checkpoint(card, model.state_dict()))
    frame = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    with open_detector(path) as detector:
        assert detector.card == card
        (first,) = detector([frame])
        (second,) = detector([frame[:50]])
    assert len(first) > 0

    image = torch.from_numpy(preprocess(frame, config.size_hw))[None]
    with torch.inference_mode():
        boxes, scores = (output[0].numpy() for output in Predictor(model)(image))
    wanted = nms(boxes.clip(0, 1), scores, score_threshold=0.2, iou_threshold=0.5, candidates=50, detections=20)
    np.testing.assert_allclose(first.boxes_xyxy, wanted.boxes_xyxy * [200, 100, 200, 100], atol=1e-3)
    np.testing.assert_allclose(first.scores, wanted.scores, atol=1e-6)
    assert second.boxes_xyxy[:, 3].max() <= 50
    with pytest.raises(SsdEdgeError, match="closed"):
        detector([frame])


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("no checkpoint")
    with pytest.raises(ModelFileError, match=r"a\.pt"):
        open_detector(tmp_path / "a.pt")


def test_devices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").touch()  # the device is looked at first
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cuda: PyTorch finds no CUDA device here"):
        open_detector(tmp_path / "a.pt", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="there are 2 GPUs, numbered from 0"):
        open_detector(tmp_path / "a.pt", device="cuda:2")
    for name in ("gpu", "meta", ""):
        with pytest.raises(UsageError, match=f"--device {name}: expected cpu, cuda or cuda:1"):
            open_detector(tmp_path / "a.pt", device=name)


@pytest.mark.parametrize(("device", "wanted"), [(None, "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1")])
def test_the_model_is_moved_to_the_device(
    device: str | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    model = create_model("ssdlite320_mobilenet_v3_large", 1)
    moved: list[str] = []

    def to(place: object) -> SSD:
        moved.append(str(place))
        return model

    monkeypatch.setattr(model, "to", to)
    card = model.make_card(("a",), (1,))
    monkeypatch.setattr("ssd_edge.runtime.backends.torch.model_from_checkpoint", lambda path: (model, card))
    (tmp_path / "a.pt").touch()
    open_detector(tmp_path / "a.pt", device=device).close()
    assert moved == [wanted]
