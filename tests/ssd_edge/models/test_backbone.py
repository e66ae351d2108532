"""Adding an architecture in a file of one's own: the example of docs/backbones.md."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v3_small

from ssd_edge.checkpoint import Checkpoint, model_from, model_from_checkpoint
from ssd_edge.errors import UsageError
from ssd_edge.models.architecture import ARCHITECTURES
from ssd_edge.models.create import create_model
from ssd_edge.models.freeze import freeze_backbone
from ssd_edge.models.ssd import SSD

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backbones.md"

SMALL = "ssdlite256_mobilenet_v3_small"


@pytest.fixture
def my_backbone(tmp_path: Path) -> Iterator[Path]:
    """The example of docs/backbones.md, as the file that it says it is; what it registers is gone after the test."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    path = tmp_path / "my_backbone.py"
    path.write_text(code, encoding="utf-8")
    yield path
    ARCHITECTURES.pop(SMALL, None)


def test_the_example_of_the_documentation_works(my_backbone: Path) -> None:
    with pytest.raises(UsageError, match=f"unknown architecture '{SMALL}'.*once the file that registers it"):
        create_model(SMALL, 3)
    example = runpy.run_path(str(my_backbone))
    model = create_model(SMALL, 3)
    assert isinstance(model, SSD)
    assert model.grid_sizes_hw == [(16, 16), (8, 8), (4, 4), (2, 2)]
    raw = model.eval()(torch.zeros(1, 3, 256, 256))
    assert raw.cls_logits.shape == (1, (256 + 64 + 16 + 4) * 6, 4)
    published = mobilenet_v3_small(weights=None).state_dict()
    shapes = {example["imagenet_name"](name): value.shape for name, value in published.items()}
    pretrained = ("backbone.fine.", "backbone.coarse.")
    ours = {name: value.shape for name, value in model.state_dict().items() if name.startswith(pretrained)}
    assert {name: shape for name, shape in shapes.items() if name} == ours
    freeze_backbone(model, trainable_layers=0)
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith(pretrained)
    }
    again = model_from(Checkpoint(model.make_card(("a", "b", "c"), (1, 2, 3)), model.state_dict()), source="a.pt")
    torch.testing.assert_close(again(torch.zeros(1, 3, 256, 256)).cls_logits, raw.cls_logits)


@pytest.mark.slow
def test_the_example_trains_by_the_command_line(my_backbone: Path, fixed_dataset: Path, tmp_path: Path) -> None:
    run = runpy.run_path(str(my_backbone))["main"]
    options = ["--arch", SMALL, "--epochs", "1", "--batch", "2", "--preset", "small", "--workers", "0"]
    assert run(["train", str(fixed_dataset), "-o", str(tmp_path / "run"), *options, "--trainable-layers", "1"]) == 0
    model, card = model_from_checkpoint(tmp_path / "run" / "last.pt")
    assert (card.arch, card.class_names, model.grid_sizes_hw[0]) == (SMALL, ("qr_code", "aztec"), (16, 16))
