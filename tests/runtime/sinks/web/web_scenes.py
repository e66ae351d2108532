"""Moving printed codes: `python -m tests.runtime.sinks.web.web_scenes` shows four sources on a page until Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from ssd_edge.data.codes.motion import MovingScene
from ssd_edge.data.codes.symbols import CLASS_NAMES
from ssd_edge.detections import Detections
from ssd_edge.runtime.overlay import draw_result
from ssd_edge.runtime.results import Event, Result
from ssd_edge.runtime.sinks.web.server import WebPreview
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.stats import StreamStats

ZONE = "loading bay"


class Codes:
    """A source of moving codes, each with a track and a zone that it enters and leaves."""

    def __init__(self, source: str, *, seed: int = 0, size_hw: tuple[int, int] = (240, 320)) -> None:
        self._source = source
        self._scene = MovingScene(seed, size_hw)
        self._scores = np.random.default_rng(seed).uniform(0.5, 1, len(CLASS_NAMES)).astype(np.float32)
        self._middle = size_hw[1] / 2
        self._inside: set[int] = set()

    def result(self, index: int, time_s: float) -> Result:
        """Frame number `index`, as the scene is at that time."""
        captured_at = time.monotonic()
        scene = self._scene.frame(time_s)
        inside = {
            int(label)
            for label, (x0, _, x1, _) in zip(scene.labels, scene.boxes_xyxy, strict=True)
            if x0 + x1 < 2 * self._middle
        }
        events = [Event("enter", ZONE, label + 1, label) for label in sorted(inside - self._inside)]
        events += [Event("leave", ZONE, label + 1, label) for label in sorted(self._inside - inside)]
        self._inside = inside
        return Result(
            self._source,
            Frame(scene.image_bgr, index, captured_at, self._source),
            Detections(scene.boxes_xyxy, self._scores[: len(scene.labels)], scene.labels),
            CLASS_NAMES,
            age_ms=1e3 * (time.monotonic() - captured_at),
            tracks=scene.labels + 1,
            events=tuple(events),
            counts={ZONE: {"inside": len(inside)}},
        )


def play(preview: WebPreview, codes: Codes, *, fps: float, until: Callable[[], bool]) -> None:
    """Feed a source of codes in real time; every tenth frame is dropped."""
    begin = time.monotonic()
    index = 0
    while not until():
        result = codes.result(index, index / fps)
        preview.write(result, result.frame.image_bgr)
        age_ms = (result.age_ms,) * 3
        preview.stats(
            result.source, StreamStats(index, index // 10, index / fps, age_ms, age_ms, decoder="h264 (FFmpeg)")
        )
        index += 2 if index % 10 == 9 else 1
        time.sleep(max(0.0, begin + index / fps - time.monotonic()))


def main() -> None:
    """Three sources that play, and one that does not."""
    done = threading.Event()
    with WebPreview(port=8080, draw=draw_result) as preview:
        print(preview.url, flush=True)
        for seed, name in enumerate(("gate", "packing line 2", "rtsp://***@10.0.0.7:554/stream?…")):
            codes = Codes(name, seed=seed, size_hw=(540, 960))
            settings = {"fps": 8.0, "until": done.is_set}
            threading.Thread(target=play, args=(preview, codes), kwargs=settings, daemon=True).start()
        preview.status("camera 3", "reconnecting", "no answer within 8 s; trying again in 16 s")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            done.set()


if __name__ == "__main__":
    main()
