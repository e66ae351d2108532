"""`TrainConfig`: all that a training is asked for, by whom it is for: data, model, optimisation, and the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ssd_edge.errors import UsageError
from ssd_edge.training.initial_model import ModelSettings
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.splits import CODES, DataSettings

# What may differ between a run and its continuation.
_FREE = {
    "output",
    "data",
    "split",
    "val_split",
    "workers",
    "threads",
    "device",
    "compile",
    "tensorboard",
    "eval_every",
    "strict",
    "resume",
}


@dataclass(frozen=True)
class RunSettings:
    """Where a training runs, and what it leaves.

    Attributes:
        output: folder for `best.pt`, `last.pt`, `history.jsonl`.
        seed: same seed, same run (bit-equal on the CPU with the same number of threads).
        eval_every: epochs from one evaluation to the next; the last one is always evaluated.
        workers: processes that load data; None: one on up to four cores, else a quarter of the cores.
        threads: PyTorch's threads; None leaves its choice.
        device: `cpu`, `cuda`, `cuda:1`; None: CUDA where there is one.
        tensorboard: write TensorBoard's files to `output` too.
        resume: go on from `output/last.pt`.

    Raises:
        UsageError: `eval_every` is less than 1.
    """

    output: Path
    seed: int = 0
    eval_every: int = 1
    workers: int | None = None
    threads: int | None = None
    device: str | None = None
    tensorboard: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.eval_every < 1:
            raise UsageError(f"eval_every is {self.eval_every}; expected at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """What `train` is asked for. Functions take the part that they need.

    Raises:
        UsageError: `codes` with settings that only datasets have a use for.
    """

    data: DataSettings
    run: RunSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    optimisation: Optimisation = field(default_factory=Optimisation)

    def __post_init__(self) -> None:
        of_datasets = {
            "split": self.data.split,
            "val_split": self.data.val_split,
            "hflip": self.optimisation.hflip,
            "zoom_out": self.optimisation.zoom_out,
        }
        given = [name for name, value in of_datasets.items() if value is not None]
        if self.data.data == CODES and given:
            raise UsageError(f"{', '.join(given)}: the scenes of {CODES} have no splits and come with their variety")

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From settings by name, as `flat` returns them; other names are ignored."""

        def part(settings: Any) -> Any:
            return settings(**{field.name: values[field.name] for field in fields(settings) if field.name in values})

        return cls(part(DataSettings), part(RunSettings), part(ModelSettings), part(Optimisation))

    def flat(self) -> dict[str, Any]:
        """All settings by name, as in `config.json`; no two parts share a name."""
        parts = (self.model, self.optimisation, self.run, self.data)
        return {name: value for part in parts for name, value in asdict(part).items()}

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run it continues, besides the data themselves."""
        return {name: value for name, value in self.flat().items() if name not in _FREE}
