"""Put a trained checkpoint into the package as the bundled model: half-precision checkpoint and ready ONNX file.

    ssd-edge train codes -o runs/codes --epochs 18
    python tools/bundle_model.py runs/codes/best.pt

The ONNX file is exported from the half-precision checkpoint, so that the two are one model.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from ssd_edge.bundled import BUNDLED_MODEL
from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.export.onnx_export import export_onnx


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    loaded = load_checkpoint(parser.parse_args().checkpoint)
    half = {name: value.half() if value.is_floating_point() else value for name, value in loaded.state_dict.items()}
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / BUNDLED_MODEL.with_suffix(".pt").name
        onnx = Path(name) / BUNDLED_MODEL.name
        save_checkpoint(checkpoint, Checkpoint(loaded.card, half))
        print(export_onnx(checkpoint, onnx))
        for file in (checkpoint, onnx):  # both or neither
            print(shutil.copy(file, BUNDLED_MODEL.parent), f"{file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
