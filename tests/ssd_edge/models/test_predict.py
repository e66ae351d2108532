import torch

from ssd_edge.models.create import create_model
from ssd_edge.models.predict import Predictor


def test_predictor_keeps_the_onnx_contract() -> None:
    model = create_model("ssdlite320_mobilenet_v3_large", 4).eval()
    images = torch.randint(0, 256, (2, 320, 320, 3), dtype=torch.uint8)
    with torch.no_grad():
        boxes, scores = Predictor(model)(images)
        raw = model(images.permute(0, 3, 1, 2).float())
    assert (boxes.shape, scores.shape) == ((2, 3234, 4), (2, 3234, 4))
    assert (boxes.dtype, scores.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(scores.sum(2), 1 - raw.cls_logits.softmax(2)[..., 0])
