"""`EngineCard`: what a TensorRT engine is, where it runs, and how it was built. JSON beside the engine.

The engine itself stays a raw plan, so that trtexec, DeepStream and Triton load it too.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.choices import FLAVOURS
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.option_checks import is_number, is_whole
from ssd_edge.runtime.cuda.base import Gpu

ENGINE_CARD_VERSION = 1
MAX_BATCH = 1024


@dataclass(frozen=True)
class BatchSizes:
    """Batches that an engine takes: the smallest, the one it is fastest at, the largest.

    Raises:
        UsageError: not 1 ≤ smallest ≤ optimum ≤ largest ≤ 1024.
    """

    smallest: int
    optimum: int
    largest: int

    def __post_init__(self) -> None:
        if not all(type(size) is int for size in (self.smallest, self.optimum, self.largest)):
            raise UsageError(f"batch sizes {self.smallest!r}, {self.optimum!r}, {self.largest!r} are not whole numbers")
        if not 1 <= self.smallest <= self.optimum <= self.largest <= MAX_BATCH:
            raise UsageError(
                f"batch sizes {self.smallest}, {self.optimum}, {self.largest}; "
                f"expected them to rise from 1 to at most {MAX_BATCH}: smallest, optimum, largest"
            )

    @classmethod
    def parse(cls, text: str) -> BatchSizes:
        """Read `4` (that batch alone), `1,16` (smallest, largest and optimum) or `1,4,16`.

        Raises:
            UsageError: neither, or out of order.
        """
        try:
            sizes = [int(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        if not 1 <= len(sizes) <= 3:
            raise UsageError(
                f"batch {text!r} is not understood; give 4, or 1,16, or 1,4,16 (smallest, optimum, largest)"
            )
        return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])

    @property
    def fixed(self) -> bool:
        """Whether the engine takes one batch size only."""
        return self.smallest == self.largest

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.fixed:
            return str(self.smallest)
        if self.optimum == self.largest:
            return f"{self.smallest},{self.largest}"
        return f"{self.smallest},{self.optimum},{self.largest}"


@dataclass(frozen=True)
class LayerShare:
    """How much of an engine runs in one precision.

    Attributes:
        layers: how many of its layers.
        layer_share: the same as a fraction of all layers.
        time_share: fraction of the time; None where it was not measured.
    """

    layers: int
    layer_share: float
    time_share: float | None


@dataclass(frozen=True)
class EngineCard:
    """What a TensorRT engine is.

    Attributes:
        model: the card of the ONNX file it was built from.
        onnx_name, onnx_sha256: that file.
        engine_sha256, engine_bytes: the engine file.
        flavour: `tensorrt` or `rtx`.
        tensorrt_version: the one that built it, which alone can run it.
        cuda_version: newest CUDA of the driver it was built with; None when it was built without a GPU.
        gpu_name, compute_capability: the GPU it was built on; None without one, as TensorRT-RTX can.
        batch: the batch sizes it takes.
        dla: core of the deep learning accelerator, None for the GPU.
        workspace_bytes: bound of the scratch memory, None for TensorRT's own.
        calibration: fingerprint of the calibration, from the ONNX file.
        layers: share of each precision by name (`int8`, `fp16`, …), empty where TensorRT tells nothing of them; None
            until the engine has run on a GPU.
        run_ms: median milliseconds of a run of the optimum batch on that GPU; None until it has run on one, or in older
            cards.

    Raises:
        ModelFileError: a value is of another type.
    """

    model: ModelCard
    onnx_name: str
    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    flavour: str
    tensorrt_version: str
    cuda_version: str | None
    gpu_name: str | None
    compute_capability: str | None
    batch: BatchSizes
    dla: int | None = None
    workspace_bytes: int | None = None
    calibration: str | None = None
    layers: dict[str, LayerShare] | None = None
    run_ms: float | None = None

    def __post_init__(self) -> None:
        texts = ("onnx_name", "onnx_sha256", "engine_sha256", "flavour", "tensorrt_version")
        optional_texts = ("cuda_version", "gpu_name", "compute_capability", "calibration")
        wrong = [name for name in texts if not isinstance(getattr(self, name), str)]
        wrong += [name for name in optional_texts if not isinstance(getattr(self, name), str | None)]
        wrong += [name for name in ("dla", "workspace_bytes") if not _is_count_or_none(getattr(self, name))]
        if not _is_count_or_none(self.engine_bytes) or self.engine_bytes is None:
            wrong.append("engine_bytes")
        if self.run_ms is not None and not _is_positive(self.run_ms):
            wrong.append("run_ms")
        if self.flavour not in FLAVOURS and "flavour" not in wrong:
            wrong.append("flavour")
        # The name is joined to a folder and put into a command; one from elsewhere must not lead out of the folder.
        if "onnx_name" not in wrong and Path(self.onnx_name).name != self.onnx_name:
            wrong.append("onnx_name")
        if wrong:
            values = ", ".join(f"{name} {getattr(self, name)!r:.60}" for name in wrong)
            raise ModelFileError(f"the engine card is not valid: {values}")

    def to_json(self) -> str:
        """The card as JSON text, with its version."""
        values = asdict(self) | {"model": json.loads(self.model.to_json())}
        return json.dumps({"engine_card_version": ENGINE_CARD_VERSION, **values}, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "engine card") -> EngineCard:
        """Read a card; `source` names the file in messages.

        Raises:
            ModelFileError: not JSON, another version, missing or unknown fields, or invalid values.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = data.pop("engine_card_version")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelFileError(f"{source}: not an engine card ({error!r:.200})") from error
        if version != ENGINE_CARD_VERSION:
            raise ModelFileError(
                f"{source}: engine card version {version!r:.20}, this ssd-edge reads version {ENGINE_CARD_VERSION}"
            )
        try:
            data["model"] = ModelCard.from_json(json.dumps(data["model"]), source=source)
            data["batch"] = BatchSizes(**data["batch"])
            if data.get("layers") is not None:
                data["layers"] = {str(name): LayerShare(**share) for name, share in data["layers"].items()}
            return cls(**data)
        except (TypeError, KeyError, AttributeError, UsageError) as error:
            raise ModelFileError(f"{source}: incomplete or invalid engine card ({error!r:.200})") from error
        except ModelFileError as error:
            raise ModelFileError(f"{source}: {error}") from error

    def rebuild_command(self, engine: Path) -> str:
        """The command that builds the engine again as it was, on this machine."""
        beside = engine.with_name(self.onnx_name)
        words = ["ssd-edge", "build", str(beside) if beside.exists() else self.onnx_name, "-o", str(engine)]
        if str(self.batch) != "1":
            words += ["--batch", str(self.batch)]
        if self.workspace_bytes is not None:
            words += ["--workspace", str(self.workspace_bytes)]
        if self.dla is not None:
            words += ["--dla", str(self.dla)]
        return shlex.join([*words, "--tensorrt", self.flavour])


def engine_card_path(engine: Path) -> Path:
    """Where an engine's card lies: `model.engine.json` beside `model.engine`."""
    return engine.with_name(engine.name + ".json")


def read_engine_card(engine: Path) -> EngineCard:
    """Read the card beside an engine.

    Raises:
        ModelFileError: there is none, or not a valid one of this version.
    """
    path = engine_card_path(engine)
    onnx = shlex.quote(str(engine.with_suffix(".onnx")))
    remedy = f"build the engine again: ssd-edge build {onnx} -o {shlex.quote(str(engine))}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{engine} has no readable card {path.name} beside it ({error.strerror or error}), without which an engine "
            f"is not trusted; {remedy}"
        ) from error
    try:
        return EngineCard.from_json(text, source=str(path))
    except ModelFileError as error:
        raise ModelFileError(f"{error}; {remedy}") from error


def check_fresh(
    engine: Path, card: EngineCard, plan: bytes | memoryview, *, flavour: str, version: str, gpu: Gpu | None
) -> None:
    """Refuse an engine that its card does not fit, or that was built for another machine.

    An engine of TensorRT-RTX is compiled for the GPU it meets when it is loaded, so it may move between GPUs
    (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html).

    Args:
        plan: the engine's content, which is what will be loaded.
        flavour, version: the TensorRT that is to run it.
        gpu: the GPU that is to run it, None where that is not known.

    Raises:
        ModelFileError: with the command that rebuilds it.
    """
    problem = (
        _content_problem(engine, card, plan)
        or _onnx_problem(engine, card)
        or _version_problem(card, flavour, version)
        or _gpu_problem(card, gpu)
    )
    if problem:
        raise ModelFileError(f"{engine} {problem}; build it again here: {card.rebuild_command(engine)}")


def _content_problem(engine: Path, card: EngineCard, plan: bytes | memoryview) -> str | None:
    if len(plan) != card.engine_bytes:
        return f"has {len(plan)} bytes, but its card says {card.engine_bytes}: it is cut short, or another engine's"
    if hashlib.sha256(plan).hexdigest() != card.engine_sha256:
        return "is not the engine that its card describes: its SHA-256 differs"
    return None


def _onnx_problem(engine: Path, card: EngineCard) -> str | None:
    onnx = engine.with_name(card.onnx_name)
    if onnx.is_file() and file_sha256(onnx) != card.onnx_sha256:
        return f"is stale: {onnx} has changed since it was built"
    return None


def _version_problem(card: EngineCard, flavour: str, version: str) -> str | None:
    if (card.flavour, card.tensorrt_version) == (flavour, version):
        return None
    built, here = f"{card.flavour} {card.tensorrt_version}", f"{flavour} {version}"
    return f"was built by {built} and this machine has {here}: an engine runs with the version that built it"


def _gpu_problem(card: EngineCard, gpu: Gpu | None) -> str | None:
    if gpu is None or card.flavour == "rtx":
        return None
    if (card.gpu_name, card.compute_capability) == (gpu.name, gpu.compute_capability):
        return None
    built = f"{card.gpu_name} (compute capability {card.compute_capability})"
    return f"was built on {built} and this is {gpu.name} ({gpu.compute_capability}): an engine runs on its own GPU"


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _is_count_or_none(value: Any) -> bool:
    return value is None or (is_whole(value) and value >= 0)
