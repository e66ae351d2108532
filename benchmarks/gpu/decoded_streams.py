"""Many streams of one video at once through one detector, decoded by the GPU or by the processor."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.gpu.record import Row
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.stream import run
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig

FPS = 30  # of the streams that are counted
NVDEC = "(NVDEC)"  # how the name of such a decoder ends


def repeated(video: Path, path: Path, frames: int) -> Path:
    """A video over and over, as it is encoded, until it has so many frames: opening it takes no share of the time."""
    import av

    with av.open(str(video)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        packets: list[Any] = [packet for packet in source.demux(stream) if packet.dts is not None]
        copied = out.add_stream_from_template(stream)
        length = sum(packet.duration for packet in packets)
        for number in range(frames):
            turn, index = divmod(number, len(packets))
            packet = packets[index]
            written: Any = av.Packet(bytes(packet))
            written.pts, written.dts = packet.pts + turn * length, packet.dts + turn * length
            written.time_base, written.duration = packet.time_base, packet.duration
            written.is_keyframe, written.stream = packet.is_keyframe, copied
            out.mux(written)
    return path


def stream_row(detector: Detector, video: Path, hwaccel: str, sources: int) -> Row:
    """Stream a video as many times at once, as fast as possible and without outputs.

    Args:
        detector: on a GPU where the hardware is NVDEC; left open. It takes the place of an engine.
        hwaccel: of `SourceOptions`.
    """
    several = [SourceConfig(video, options=SourceOptions(hwaccel=hwaccel))] * sources
    config = StreamConfig(several, Path("its.engine"), score_threshold=detector.score_threshold)
    with mock.patch.object(run, "open_detector", return_value=nullcontext(detector)):
        begin = time.process_time()
        stats = run.run_stream(config, progress=False)
        processor_s = time.process_time() - begin
    decoders = {each.decoder for each in stats.sources.values()} or {stats.decoder}
    return {
        "decoders": sorted(decoders),
        "sources": sources,
        "frames": stats.frames,
        "frames_per_second": stats.fps,
        "streams_of_30_fps": stats.fps / FPS,
        "processors_per_stream": FPS * processor_s / stats.frames,
        "processors": os.cpu_count(),
        "ok": hwaccel != "cuda" or all(decoder.endswith(NVDEC) for decoder in decoders),
    }
