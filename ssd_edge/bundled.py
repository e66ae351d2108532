"""The model that comes with the package: SSDlite320 trained on the synthetic `codes` scenes."""

from __future__ import annotations

from pathlib import Path

from ssd_edge.errors import ModelFileError

BUNDLED_MODEL = Path(__file__).parent / "assets" / "codes_ssdlite320.onnx"


def bundled_model() -> Path:
    """Path of the bundled ONNX file.

    Raises:
        ModelFileError: this copy of the package comes without it.
    """
    if not BUNDLED_MODEL.is_file():
        raise ModelFileError(
            f"the bundled model is not at {BUNDLED_MODEL}; name a model with --model, or train one: "
            "ssd-edge train codes -o runs/codes"
        )
    return BUNDLED_MODEL
