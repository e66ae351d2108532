"""`Child`: a worker as its parent sees it. What kills the worker becomes an error of this model alone."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from ssd_edge.bench.turns import Turn, TurnTimes
from ssd_edge.bench.worker import Accuracy, Failure, Job, Opened, Prepared, serve
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import SsdEdgeError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0  # for a worker that was asked to end
Serve = Callable[[Connection, Job], None]


class ModelFailedError(SsdEdgeError):
    """One of the models could not be measured; the message says why."""


class Child:
    """A context manager that holds one worker process.

    A process of its own for each model, because the threads of PyTorch and ONNX Runtime slow each other down in one,
    and so that memory and crashes are told apart.

    Args:
        run: what the process runs; tests give their own.
    """

    def __init__(self, job: Job, *, run: Serve = serve) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(theirs, job), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()  # or the pipe would not end with the process

    def opened(self) -> Opened:
        """Wait until the model is open and warm.

        Raises:
            ModelFailedError: as all that asks.
        """
        opened: Opened = self._answer()
        return opened

    def prepared(self) -> Prepared:
        """The first answer of a process that runs `ssd_edge.bench.prepare.serve_prepared`.

        Raises:
            ModelFailedError: as all that asks.
        """
        prepared: Prepared = self._answer()
        return prepared

    def run(self, turn: Turn) -> TurnTimes:
        """Take a turn.

        Raises:
            ModelFailedError: the model failed, or its process died.
        """
        times: TurnTimes = self._ask("turn", turn)
        return times

    def peak_memory_bytes(self) -> int:
        """As `ssd_edge.bench.memory.peak_memory_bytes`, of the worker."""
        peak: int = self._ask("peak_memory")
        return peak

    def accuracy(self, dataset: DetectionDataset) -> Accuracy:
        """Score the model; the last thing to ask of it."""
        accuracy: Accuracy = self._ask("accuracy", dataset)
        return accuracy

    def close(self) -> None:
        """Let the worker end, and see to it that it has."""
        self._pipe.close()
        self._process.join(PATIENCE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.kill()

    def _ask(self, name: str, argument: object = None) -> Any:
        with suppress(OSError):  # it died in between; _answer says of what
            self._pipe.send((name, argument))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(PATIENCE_SECONDS)
            raise ModelFailedError(_death(self._process.exitcode)) from None
        if isinstance(answer, Failure):
            if answer.trace:
                logger.debug("%s", answer.trace)
            raise ModelFailedError(answer.message)
        return answer


def _death(exitcode: int | None) -> str:
    """What the end of a process without an answer means."""
    if exitcode is None or exitcode >= 0:
        return f"its process ended without an answer (exit status {exitcode}); what it wrote above says more"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if name == "SIGKILL":
        return (
            "its process was killed (SIGKILL), as the system does when memory runs out; measure fewer models at a time"
        )
    return f"its process crashed ({name}) in the library that runs the model"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until this is over, and in a process that is started meanwhile until `serve` lets it come.

    Blocking alone is not enough: the system gives the signal to another thread then, such as one of a library, and
    Python still interrupts the main one.
    """
    held: list[int] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if held:
            signal.raise_signal(signal.SIGINT)
