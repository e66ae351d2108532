"""What a training leaves to be read: a line an epoch in `history.jsonl`, and TensorBoard's files where wanted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_edge.errors import MissingDependencyError, SinkError

SCORES = ("AP", "AP50", "AP75")  # of an evaluation that are kept


class History:
    """A context manager.

    Args:
        folder: where it is written; None: nowhere, in all processes but the first.
        tensorboard: write TensorBoard's files too.
        step: from which the run goes on; what TensorBoard has of later steps is from before a crash, and hidden.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
        SinkError: from all methods, where the folder cannot be written to.
    """

    def __init__(self, folder: Path | None, *, tensorboard: bool, step: int) -> None:
        self.folder = folder
        self.board: Any = None
        if folder and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError("--tensorboard needs the package tensorboard", "tensorboard") from error
            self.board = SummaryWriter(str(folder), purge_step=step)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board:
            with self._failures():
                self.board.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Figures of one step, for TensorBoard alone."""
        if self.board:
            with self._failures():
                for name, value in values.items():
                    self.board.add_scalar(name, value, step)

    def epoch(self, step: int, figures: dict[str, float]) -> None:
        """Figures of an epoch that ended with `step`."""
        if not self.folder:
            return
        with self._failures(), open(self.folder / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        self.scalars(step, {f"val/{name}": figures[name] for name in SCORES if name in figures})

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkError(
                f"cannot write to {self.folder}: {error.strerror or error}; make space and go on with --resume"
            ) from error
