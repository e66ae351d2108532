"""Logs for programs: one JSON object per line, without passwords."""

import json
from pathlib import Path

from tests.runtime.stream.streams import run_cli, write_video


def test_logs_for_programs(tmp_path: Path, model_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", 5)
    arguments = ["--source", "rtsp://me:s3cret@127.0.0.1:1/x", "--video", str(video), "--model", str(model_path)]
    with run_cli(*arguments, "--retries", "0", "--log-format", "json") as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    messages = [(line["level"], line["message"]) for line in lines]
    assert messages[0][0] == "warning"
    assert messages[0][1].startswith("rtsp://***@127.0.0.1:1/x: failed: cannot open")
    assert messages[-1][0] == "error"
    assert any(message.startswith("all: 5 frames") for _, message in messages)
    assert "s3cret" not in err
