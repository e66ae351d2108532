"""`KilledSamples`: samples whose loading kills the process."""

from __future__ import annotations

import os
import signal

from ssd_edge.data.augment import Sample
from ssd_edge.data.samples import ImageSamples, Key
from ssd_edge.errors import DatasetError


class KilledSamples(ImageSamples):
    """The sixth epoch kills the process that loads its first sample, as a system out of memory would."""

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        if key[0] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)
