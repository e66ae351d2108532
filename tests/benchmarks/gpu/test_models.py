"""The models that `benchmarks/gpu/measure.py` measures stay within half precision; its peers are the same models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from benchmarks.gpu.cases import background_dropped, ssd300_boxes, ssd300_case, ssd300_logits  # noqa: E402
from benchmarks.gpu.inputs import given_model  # noqa: E402
from benchmarks.gpu.models import SSD300, SSDLITE, Model, bundled, read_frame, synthetic_frame, write_onnx  # noqa: E402
from benchmarks.gpu.torch_peers import TorchvisionSuppression, torchvision_model, torchvision_peer, untrained_checkpoint  # noqa: E402
from ssd_edge.checkpoint import load_checkpoint, model_from_checkpoint  # noqa: E402
from ssd_edge.errors import UsageError  # noqa: E402
from ssd_edge.models.predict import Predictor  # noqa: E402
from ssd_edge.runtime.detector import open_detector  # noqa: E402
from ssd_edge.runtime.preprocess import preprocess  # noqa: E402

LARGEST_WEIGHT = 1e3


@pytest.fixture(scope="module", params=[SSD300, SSDLITE])
def random_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("random") / f"{request.param}.pt"
    rgb = np.ascontiguousarray(synthetic_frame()[..., ::-1])
    return Model(request.param, untrained_checkpoint(request.param, path, rgb), None, "random")


@contextmanager
def rounded_to_half(network: Any) -> Iterator[None]:
    """Each layer rounds its weights and what it gives to half: as a GPU does, whose sums are in float32."""

    def round_output(_: Any, __: Any, output: Any) -> Any:
        return output.half().float() if isinstance(output, torch.Tensor) else output

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(round_output) for layer in leaves]
    for values in network.parameters():
        values.data = values.data.half().float()
    yield
    for hook in hooks:
        hook.remove()


def scores_in_half(checkpoint: Path) -> tuple[np.ndarray, float]:
    """Scores of the frame [anchors, classes], and the model's threshold."""
    model, card = model_from_checkpoint(checkpoint)
    image = preprocess(synthetic_frame(), (card.height, card.width))
    with torch.inference_mode(), rounded_to_half(model):
        _, scores = Predictor(model).eval()(torch.from_numpy(image)[None])
    return scores[0].numpy(), card.score_threshold


def largest_weight(checkpoint: Path) -> float:
    weights = load_checkpoint(checkpoint).state_dict.values()
    return max(float(values.abs().max()) for values in weights if values.is_floating_point())


def test_random_weights_stay_within_half_precision(random_model: Model) -> None:
    assert random_model.checkpoint is not None
    scores, threshold = scores_in_half(random_model.checkpoint)
    assert np.isfinite(scores).all()
    assert 1000 < (scores > threshold).sum() < 9000  # about 3000 are wanted
    assert largest_weight(random_model.checkpoint) < LARGEST_WEIGHT


def test_the_bundled_model_stays_within_half_precision() -> None:
    model = bundled()
    assert model.checkpoint is not None
    scores, threshold = scores_in_half(model.checkpoint)
    assert np.isfinite(scores).all()
    assert (scores > threshold).sum() > 30
    assert (scores > 0.4).sum() >= 4
    assert largest_weight(model.checkpoint) < LARGEST_WEIGHT


def test_the_bundled_model_in_every_precision(tmp_path: Path) -> None:
    """fp16 as a GPU runs it; int8 has made-up ranges, and yet no score that is no number."""
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    from ssd_edge.export.fp16.emulate import emulated_half

    image = preprocess(synthetic_frame(), (320, 320))[None]
    scores = {}
    for precision in ("fp32", "fp16", "int8"):
        graph = onnx.load(write_onnx(bundled(), precision, tmp_path))
        graph = emulated_half(graph) if precision == "fp16" else graph
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        _, scores[precision] = session.run(["boxes", "scores"], {"images": image})
        assert np.isfinite(scores[precision]).all()
        assert scores[precision].shape == (1, 3234, 5)
    assert np.abs(scores["fp16"] - scores["fp32"]).max() < 0.02
    assert write_onnx(bundled(), "fp16", tmp_path) == tmp_path / f"{SSDLITE}_codes_ssdlite320_fp16.onnx"


def test_the_peer_of_the_bundled_model_finds_what_it_finds() -> None:
    """torchvision's, with our weights, default boxes, thresholds and limits."""
    model, frame = bundled(), synthetic_frame()
    with open_detector(model.file) as detector:
        (expected,) = detector([frame])
    assert model.checkpoint is not None
    with torchvision_peer(model.checkpoint, frame, compiled=False, device="cpu") as run:
        found: Any = run()
    best = found["scores"] > 0.4
    ours = expected.above(0.4)
    assert len(ours) == 4
    np.testing.assert_allclose(found["scores"][best].numpy(), ours.scores, atol=0.02)  # it resizes otherwise
    np.testing.assert_allclose(found["boxes"][best].numpy(), ours.boxes_xyxy, atol=3)


@pytest.mark.parametrize("random_model", [SSD300], indirect=True)
def test_torchvisions_suppression_decodes_into_the_image(random_model: Model) -> None:
    assert random_model.checkpoint is not None
    assert torchvision_model(random_model.checkpoint, "cpu").anchor_generator.num_anchors_per_location()[0] == 4
    logits = ssd300_logits(1)
    with torch.inference_mode():
        peer = TorchvisionSuppression(logits, random_model.checkpoint, device="cpu")
        peer.decode()
        found = peer.suppress()[0]
    np.testing.assert_allclose(peer.scores.numpy(), background_dropped(logits), atol=1e-6)
    assert 0 < np.median(peer.boxes.numpy()) < 1
    assert len(found["labels"]) == 200


def test_inputs_of_ssd300s_size_are_like_a_trained_models() -> None:
    case = ssd300_case(2)
    assert (case.boxes.shape, case.scores.shape) == ((2, 8732, 4), (2, 8732, 90))
    assert np.isfinite(case.boxes).all()
    assert [int((scores > 0.01).sum()) for scores in case.scores] == pytest.approx([3000, 3000], rel=0.05)
    assert (ssd300_boxes(1)[..., 2:] > ssd300_boxes(1)[..., :2]).all()


def test_the_synthetic_frame_has_codes_that_the_bundled_model_finds() -> None:
    frame = read_frame(None)
    with open_detector(bundled().file, score_threshold=0.9) as detector:
        (found,) = detector([frame])
    assert (frame.shape, found.labels.tolist()) == ((480, 640, 3), [0, 0, 0, 0])


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file; give a checkpoint"):
        given_model(SSD300, tmp_path / "absent.pt")
