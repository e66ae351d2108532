"""`Trainer`: the loop over steps and epochs, with hooks for what a training does around them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from ssd_edge.cpus import usable_cpus
from ssd_edge.data.samples import Batch, EpochBatches, Samples, end_workers, make_loader
from ssd_edge.errors import DatasetError, SsdEdgeError, reason
from ssd_edge.models.loss import Targets
from ssd_edge.models.ssd import SSD
from ssd_edge.training.distributed import Group
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.recipes import Recipe
from ssd_edge.training.signals import leave_dead_children_to_the_loader, stop_requests
from ssd_edge.training.updater import NotFiniteError, Updater


@dataclass
class EpochSums:
    """Sums over the steps of an epoch so far."""

    steps: int = 0
    localisation: float = 0.0
    classification: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss."""
        return (self.localisation + self.classification) / max(1, self.steps)

    def figures(self, batch: int) -> dict[str, float]:
        """Mean losses and times."""
        steps, seconds = max(1, self.steps), max(1e-9, self.seconds)
        return {
            "loss": self.loss,
            "localisation": self.localisation / steps,
            "classification": self.classification / steps,
            "images_per_s": self.steps * batch / seconds,
            "waiting_for_data": self.waited / seconds,
        }


class Trainer:
    """Trains a model, epoch by epoch, and leaves nothing but its weights. Subclasses add the rest through these hooks:

    - `before_training`, once;
    - `training_step` for every batch;
    - `end_epoch` after the last step of an epoch: evaluate, keep what is best, report;
    - `checkpoint` after `end_epoch`, whether it failed or not, and where training stops within an epoch;
    - `stopped` before Ctrl-C or a problem with the data ends the training early;
    - `diverged` makes the error for a loss that is not finite.

    Attributes:
        samples, batches: what is trained on, and in which order.
        updater: holds the model.
        step: steps done; while `training_step` runs, the number of that step, from 0.
        sums: losses and times of the epoch under way.
        stop: signals received so far that ask to stop; the step under way ends whole.
    """

    def __init__(
        self,
        model: SSD,
        samples: Samples,
        recipe: Recipe,
        group: Group,
        optimisation: Optimisation,
        *,
        seed: int = 0,
        workers: int | None = None,
        progress: bool = True,
        title: str = "epoch",
    ) -> None:
        """Put the model on the group's device.

        Args:
            recipe: with what `optimisation` changes.
            seed: of the order of the samples.
            workers: processes that load data; None: by the number of CPUs.
            progress: show a progress bar for each epoch where standard error is a terminal.
            title: in front of the epoch's number in the progress bar.

        Raises:
            UsageError: as `Updater`.
        """
        self.samples, self.recipe, self.group = samples, recipe, group
        self.batches = EpochBatches(len(samples), recipe.batch, recipe.epochs, seed, rank=group.rank, world=group.world)
        self.updater = Updater(model, recipe, group, self.batches, optimisation)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.step = 0
        self.sums = EpochSums()
        self.stop: list[int] = []
        self._workers, self._title, self._progress = _workers(workers), title, progress and group.is_first

    def before_training(self) -> None:
        """Hook; by default nothing."""

    def training_step(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        """Hook: train on one batch; returns both parts of the loss. By default `Updater.update`.

        Raises:
            SsdEdgeError: the loss or its gradient is not finite.
        """
        try:
            return self.updater.update(images, targets)
        except NotFiniteError as error:
            names = ", ".join(map(self.samples.name, self.batches.keys(self.step)))
            raise self.diverged(error, names) from error

    def end_epoch(self) -> None:
        """Hook; by default nothing."""

    def checkpoint(self) -> None:
        """Hook; by default nothing."""

    def stopped(self) -> None:
        """Hook; by default nothing."""

    def diverged(self, loss: NotFiniteError, names: str) -> SsdEdgeError:
        """Hook: the error to raise for a loss that is not finite, on the samples of these names."""
        return SsdEdgeError(f"the loss at step {self.step} is {loss}, on the batch of {names}")

    @property
    def epoch(self) -> int:
        """Number of the epoch that the last step belongs to, from 1."""
        return (self.step - 1) // self.steps_per_epoch + 1

    def run(self) -> None:
        """Train to the end, from `step` on.

        Raises:
            SsdEdgeError: an image is gone, a process that loads data or takes part died, or the loss is not finite.
            KeyboardInterrupt: after an early end. A request in the very last step is too late.
        """
        self.batches.first_step = self.step
        loader = make_loader(self.samples, self.batches, workers=self._workers, device=self.group.device)
        with stop_requests() as self.stop:
            batches = iter(loader)
            leave_dead_children_to_the_loader()
            try:
                self._train(batches)
            finally:
                end_workers(batches)

    def _train(self, batches: Iterator[Batch | DatasetError]) -> None:
        self.before_training()
        # The steps of an epoch may all be done at the start: it was stopped while it was being evaluated.
        while self.step < self.total_steps or self._is_epoch_done():
            problem = None if self._is_epoch_done() else self._train_epoch(batches)
            is_done = self._is_epoch_done()
            try:
                if is_done:
                    self.end_epoch()
                    self.sums = EpochSums()
            finally:  # whatever the evaluation meets, the epoch's steps are not lost
                self.checkpoint()
            if not is_done or (self.step < self.total_steps and self.group.any(bool(self.stop))):
                self.stopped()
                raise problem or KeyboardInterrupt

    def _is_epoch_done(self) -> bool:
        """Whether an epoch's steps are done, but not what comes after them."""
        return self.step % self.steps_per_epoch == 0 and self.sums.steps > 0

    def _train_epoch(self, batches: Iterator[Batch | DatasetError]) -> SsdEdgeError | None:
        """Train to the end of the epoch, or to a request to stop, or to a problem with the data, which is returned.

        All processes leave at the same step: one that left alone would keep the others waiting for its share.
        """
        self.updater.model.train()
        done = self.step % self.steps_per_epoch
        title = f"{self._title} {self.step // self.steps_per_epoch + 1}/{self.recipe.epochs}"
        total = self.steps_per_epoch
        hidden = None if self._progress else True  # None: shown on a terminal
        with tqdm(total=total, initial=done, desc=title, unit="step", leave=False, disable=hidden) as bar:
            for _ in range(total - done):
                begin = time.perf_counter()
                batch = SsdEdgeError("stopped") if self.stop else _next(batches)
                fetched = time.perf_counter()
                problem = batch if isinstance(batch, SsdEdgeError) else None
                if self.group.any(problem is not None):
                    elsewhere = SsdEdgeError("another process of this training ended early; its message says why")
                    return None if self.stop else problem or elsewhere
                images, boxes, labels = batch  # type: ignore[misc]  # no problem, so a batch
                localisation, classification = self.training_step(images, Targets.pad(boxes, labels))
                self.step += 1
                sums = self.sums
                sums.steps += 1
                sums.localisation += localisation
                sums.classification += classification
                sums.waited += fetched - begin
                sums.seconds += time.perf_counter() - begin
                bar.update()
                bar.set_postfix(loss=f"{sums.loss:.3f}")
        return None


def _next(batches: Iterator[Batch | DatasetError]) -> Batch | SsdEdgeError:
    """The next batch, or what is wrong with it: an image, or the process that loads it."""
    try:
        return next(batches)
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A process that dies while it hands over a batch shows as a broken connection.
        if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
            raise
        return SsdEdgeError(
            f"a data-loading process is gone ({reason(error)}): most often the system was out of memory "
            "(or of /dev/shm in a container). Go on with --resume and fewer --workers, or --workers 0"
        )


def _workers(asked: int | None) -> int:
    """Processes that load data: one on up to four CPUs, else a quarter of this process's share of the usable CPUs."""
    if asked is not None:
        return asked
    cpus = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cpus // 4)
