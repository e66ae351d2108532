"""`CheckpointedTrainer`: a training that keeps its best weights in a folder, and can be resumed from there."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import torch
from torch import Tensor

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import Samples
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.evaluation.evaluate import detect, evaluate_detections
from ssd_edge.models.loss import Targets
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group, say
from ssd_edge.training.history import SCORES, History
from ssd_edge.training.recipes import Recipe
from ssd_edge.training.trainer import EpochSums, Trainer
from ssd_edge.training.updater import NotFiniteError


class CheckpointedTrainer(Trainer):
    """Writes `best.pt`, `last.pt` and `history.jsonl` to the folder of the run.

    Attributes:
        card: of the model.
        best: path of `best.pt`, the checkpoint with the highest AP on the evaluation images.
        best_ap: that AP; -1 before the first evaluation.
    """

    history: History

    def __init__(
        self,
        model: SSD,
        samples: Samples,
        val_set: DetectionDataset,
        card: ModelCard,
        recipe: Recipe,
        group: Group,
        config: TrainConfig,
    ) -> None:
        """Put the model on the group's device.

        Args:
            recipe: with what `config.optimisation` changes.
            config: is kept in `last.pt`; a resumed run must have the same.
        """
        super().__init__(
            model, samples, recipe, group, config.optimisation, seed=config.run.seed, workers=config.run.workers
        )
        self.val_set, self.card, self.config = val_set, card, config
        self.best = config.run.output / "best.pt"
        self.best_ap = -1.0

    def go_on_from(self, earlier: Checkpoint) -> None:
        """Take over the state of an earlier run.

        Raises:
            UsageError: its data were not these.
        """
        state = earlier.training
        if earlier.card != self.card or state["val_data"] != self.val_set.fingerprint():
            raise UsageError(
                "the images or classes to train or evaluate on are not those of the run to resume; bring them back, "
                "or start anew with another -o (and --weights to keep what was learnt)"
            )
        self.updater.load_state(state, earlier.state_dict)
        torch.set_rng_state(state["random"])  # for a backbone that draws, such as one with dropout
        self.step = state["step"]
        self.sums = EpochSums(**json.loads(state["epoch"]))
        self.best_ap = state["best_ap"]

    def run(self) -> None:
        """As `Trainer.run`.

        Raises:
            MissingDependencyError: TensorBoard is wanted and not installed.
            SinkError: a file cannot be written.
        """
        folder = self.config.run.output if self.group.is_first else None
        with History(folder, tensorboard=self.config.run.tensorboard, step=self.step) as self.history:
            super().run()

    def training_step(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        """As `Trainer.training_step`, with a record of the losses for TensorBoard."""
        localisation, classification = super().training_step(images, targets)
        rate = self.updater.learning_rate
        scalars = {"loss/localisation": localisation, "loss/classification": classification, "lr": rate}
        self.history.scalars(self.step, scalars)
        return localisation, classification

    def end_epoch(self) -> None:
        """Evaluate if it is time, keep the best, report."""
        figures = {"epoch": self.epoch, "step": self.step, **self.sums.figures(self.batches.batch)}
        if self.epoch % self.config.run.eval_every == 0 or self.step == self.total_steps:
            figures |= self.evaluate()
            if figures["AP"] > self.best_ap:
                self._save_best({f"val_{name}": figures[name] for name in SCORES})
                self.best_ap = figures["AP"]
        self.history.epoch(self.step, figures)
        scores = f"val AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}, " if "AP" in figures else ""
        say(
            f"epoch {self.epoch}/{self.recipe.epochs}: loss {figures['loss']:.3f}, {scores}"
            f"{figures['images_per_s']:.1f} images/s, {figures['waiting_for_data']:.0%} of the time waits for data"
        )

    def evaluate(self) -> dict[str, float]:
        """The `SCORES` on the evaluation images, of which each process looks at its share."""
        rank, world, model = self.group.rank, self.group.world, self.updater.evaluated_model
        self.group.share_buffers(model)  # statistics of batch norm differ a little; the first one's are saved
        share = replace(self.val_set, records=self.val_set.records[rank::world])
        found = self.group.gather(detect(TorchDetector(model, self.card), share, progress=self.group.is_first))
        figures = {}
        if self.group.is_first:
            detections = [found[i % world][i // world] for i in range(len(self.val_set))]
            metrics = evaluate_detections(detections, self.val_set, self.card.class_names).metrics
            figures = {name: metrics[name] for name in SCORES}
        return dict(self.group.broadcast(figures))

    def checkpoint(self) -> None:
        """Save `last.pt`, to go on from; its keys are `resume.TRAINING_STATE`."""
        if not self.group.is_first:
            return
        state = {
            "settings": json.dumps(self.config.settings()),
            "recipe": json.dumps(asdict(self.recipe)),
            "val_data": self.val_set.fingerprint(),
            **self.updater.state(),
            "random": torch.get_rng_state(),
            "step": self.step,
            "epoch": json.dumps(asdict(self.sums)),
            "best_ap": self.best_ap,
        }
        weights = self.updater.evaluated_model.state_dict()
        save_checkpoint(self.config.run.output / "last.pt", Checkpoint(self.card, weights, state))

    def _save_best(self, metrics: dict[str, float]) -> None:
        """A checkpoint for use: no training state."""
        if self.group.is_first:
            weights = self.updater.evaluated_model.state_dict()
            save_checkpoint(self.best, Checkpoint(replace(self.card, metrics=metrics), weights))

    def stopped(self) -> None:
        """Say how to go on."""
        say(f"stopped at step {self.step} of {self.total_steps}; go on with --resume")

    def diverged(self, loss: NotFiniteError, names: str) -> SsdEdgeError:
        """The error, with what to do."""
        return SsdEdgeError(
            f"the loss at step {self.step} is {loss}: training diverged, on the batch of {names}. Look at these images "
            "and boxes; else start anew with a lower --lr and another -o (--weights with the best.pt of this run keeps "
            "what was learnt)"
        )
