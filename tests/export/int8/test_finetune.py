"""Fine-tuning under int8 rounding, from the command line on."""

from pathlib import Path

import onnx
import pytest

from ssd_edge.calib.images import CalibrationImages
from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.cli.main import main
from ssd_edge.export import onnx_export
from ssd_edge.export.int8.finetune import finetuned_checkpoint
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.int8.placement import Placement
from ssd_edge.onnx_graph import metadata_of
from tests.detectors.tiny_detector import Tiny


@pytest.mark.slow
def test_fine_tuning_is_the_last_resort(
    tiny: Tiny, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"export {tiny.checkpoint} -o {tmp_path / 'int8.onnx'} --precision int8 --calib {tiny.data} --target cpu"
    command += f" --data {tiny.data} --images 6 --threads 1"
    assert main([*command.split(), "--max-drop", "0.3", "--qat", "1"]) == 0
    assert not (tmp_path / "int8.qat.pt").exists()  # it was not needed
    asked: list[Path] = []

    def watched(checkpoint: Path, output: Path, placement: Placement, options: Int8Options) -> Path:
        asked.append(output)
        return finetuned_checkpoint(checkpoint, output, placement, options)

    monkeypatch.setattr(onnx_export, "finetuned_checkpoint", watched)
    monkeypatch.setattr("ssd_edge.calib.recovery.LARGE_COST", 0.0)  # whatever it costs is too much
    assert main([*command.split(), "--max-drop", "0.6", "--qat", "1"]) == 0
    assert asked == [tmp_path / "int8.qat.pt"]
    card = ModelCard.from_json(metadata_of(onnx.load(tmp_path / "int8.onnx"))[ONNX_METADATA_KEY])
    assert card.precision == "int8"
    assert card.parent_sha256 is not None
