"""Each architecture exported once per test run: tracing one takes seconds, and most tests only read the result."""

from __future__ import annotations

import contextlib
import fcntl
import io
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.export import onnx_export
from ssd_edge.export.onnx_export import ExportReport, export_onnx
from ssd_edge.models.create import create_model

CLASSES = ("cat", "dog", "cow")


@dataclass(frozen=True)
class Exported:
    """An fp32 export.

    Attributes:
        checkpoint: what was exported, as `write_checkpoint` makes it.
        path: the ONNX file, alone in its folder.
        noise: what the export printed, then its warnings.
    """

    arch: str
    checkpoint: Path
    path: Path
    report: ExportReport
    noise: list[str]


def write_checkpoint(path: Path, arch: str) -> Path:
    """Write a checkpoint with random weights and batch-norm statistics; seeded."""
    torch.manual_seed(0)
    model = create_model(arch, len(CLASSES))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if name.endswith("bn3"):  # with such statistics ResNet's 13 residuals would add up to logits of hundreds
                nn.init.constant_(module.weight, 0.3)
    save_checkpoint(path, Checkpoint(model.make_card(CLASSES, (17, 18, 21)), model.state_dict()))
    return path


def export_once(run_folder: Path, arch: str) -> Exported:
    """Export an architecture, or take the export that another test or worker of this run has made.

    Args:
        run_folder: shared by all workers of one test run.
    """
    folder = run_folder / f"exported-{arch}"
    folder.mkdir(exist_ok=True)
    result = folder / "exported.pickle"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers wait for the first one
        if not result.exists():
            result.write_bytes(pickle.dumps(_export(folder, arch)))
    exported: Exported = pickle.loads(result.read_bytes())
    return exported


def _export(folder: Path, arch: str) -> Exported:
    checkpoint = write_checkpoint(folder / "checkpoint.pt", arch)
    path, said = folder / "made" / "model.onnx", io.StringIO()
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(onnx_export, "COMPARED_IMAGES", 2)
        warnings.simplefilter("always")
        report = export_onnx(checkpoint, path)
    return Exported(arch, checkpoint, path, report, [said.getvalue(), *(str(w.message) for w in warned)])
