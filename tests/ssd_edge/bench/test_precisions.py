"""What `--precisions` makes of each checkpoint."""

from pathlib import Path

import pytest

from ssd_edge.bench.precisions import export_stems
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import UsageError


def test_exports_are_named_after_their_checkpoints() -> None:
    one, two = Path("runs/a/best.pt"), Path("runs/b/best.safetensors")
    assert export_stems([one, Path("m.onnx")]) == {one: "best"}
    assert export_stems([one, two]) == {one: "a-best", two: "b-best"}
    with pytest.raises(UsageError, match="none is given"):
        export_stems([Path("m.onnx")])


def test_each_checkpoint_is_replaced_by_its_exports(
    tmp_path: Path, fixed_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    from ssd_edge.bench.precisions import PrecisionOptions, in_precisions
    from ssd_edge.export import onnx_export

    asked: list[tuple[str, str, str]] = []

    def export_nothing(checkpoint: Path, output: Path, *, precision: str, data: object, int8: object) -> None:
        asked.append((checkpoint.name, output.name, precision))

    monkeypatch.setattr(onnx_export, "export_onnx", export_nothing)
    models, dataset = [Path("a.pt"), Path("m.onnx")], read_dataset(fixed_dataset)
    options = PrecisionOptions(("torch", "fp16", "fp32", "fp16"), keep=tmp_path)
    with in_precisions(models, options, data=dataset) as chosen:
        assert chosen == [Path("a.pt"), tmp_path / "a.fp16.onnx", tmp_path / "a.fp32.onnx", Path("m.onnx")]
    assert asked == [("a.pt", "a.fp16.onnx", "fp16"), ("a.pt", "a.fp32.onnx", "fp32")]
    with in_precisions(models, PrecisionOptions(("fp32",)), data=dataset) as chosen:
        folder = chosen[0].parent
        assert folder.is_dir()
    assert not folder.exists()  # nobody asked to keep it
    with in_precisions(models, None, data=dataset) as chosen:
        assert chosen == models
