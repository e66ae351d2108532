"""Outputs that are asked for are opened, with the packages that these need and no others."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ssd_edge.errors import SinkError
from ssd_edge.runtime.gpu_use import look_for_gpu
from ssd_edge.runtime.stream.config import StreamConfig
from ssd_edge.runtime.stream.run import run_stream
from tests.runtime.stream.streams import write_video


def test_one_file_for_two_outputs_is_refused_and_untouched(tmp_path: Path, model_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "in.png")
    same, link = tmp_path / "same.png", tmp_path / "link.png"
    same.write_text("old")
    link.symlink_to(same)
    for name in (same, link):
        with pytest.raises(SinkError, match="--save and --jsonl both"):
            run_stream(StreamConfig(tmp_path / "in.png", model_path, save=same, jsonl=str(name)), progress=False)
    assert same.read_text() == "old"


def test_a_stream_imports_only_what_is_asked_for(tmp_path: Path, model_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", 5)
    heavy = {"paho", "supervision", "scipy", "starlette", "uvicorn", "prometheus_client", "torch", "matplotlib"}
    if not look_for_gpu().present:
        heavy |= {"cuda", "tensorrt", "tensorrt_rtx"}
    code = (
        "import sys; from ssd_edge.cli.main import main; main(sys.argv[1:]); "
        f"print(*sorted({heavy} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    arguments = ["stream", "--video", str(video), "--model", str(model_path)]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "\n"
