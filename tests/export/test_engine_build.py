"""`ssd-edge build` on a machine with a GPU, with stand-ins for both: timing, advice on int8, the DLA, refusals."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.card import ONNX_METADATA_KEY
from ssd_edge.errors import GateFailedError, SsdEdgeError, UsageError
from ssd_edge.export import build, engine_cache, engine_trial
from ssd_edge.export.build import BuildReport, build_engine
from ssd_edge.export.engine_cache import prepare_model
from ssd_edge.export.engine_timing import ROUNDS, RUNS, WARM_UPS, measure_run_ms
from ssd_edge.runtime.backends.tensorrt import TensorRTEngine
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.gpu_use import GpuUse
from ssd_edge.runtime.host.fixes import tensorrt_fix
from ssd_edge.runtime.host.kind import Host
from ssd_edge.runtime.tensorrt import log
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, engine_card_path, read_engine_card
from tests.fakes.host_cuda import HostEvent
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import CARD, FakeCuda, Script

onnx = pytest.importorskip("onnx")

GPU = '{"Layers": [{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "%s"}]}]}'
DLA = '{"Layers": [{"Name": "{ForeignNode[a...b]}", "LayerType": "DLA", "Inputs": [{"Format/Datatype": "Half"}]}]}'
JETSON = Host(jetson=True, nvidia=True, jetpack="6.2")
OUT_OF_MEMORY = "Error Code 1: Cuda Runtime (out of memory)"
REFUSAL = (
    "The engine cannot run on this GPU, which has compute capability 8.7. "
    "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it."
)


class Machine:
    """A Jetson Orin with TensorRT 10.3; each build follows a script of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = Script()
        self.gpu = Gpu("Orin", "8.7", "12.6")
        self.version = "10.3.0"
        self.flavour = "tensorrt"
        self.run_ms: float | None = None  # None: as it is measured

    def load(self, _: str | None) -> Any:
        return fake_tensorrt(self.script, self.version, self.flavour)

    def measure(self, engine: TensorRTEngine, batch: int) -> float:
        return measure_run_ms(engine, batch) if self.run_ms is None else self.run_ms

    def write_onnx(self, name: str, precision: str, **card: Any) -> Path:
        """What the stand-in does not look into: the card in it decides."""
        helper = onnx.helper
        images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
        node = helper.make_node("Identity", ["images"], ["boxes"])
        output = helper.make_tensor_value_info("boxes", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
        model = helper.make_model(helper.make_graph([node], "g", [images], [output]))
        helper.set_model_props(model, {ONNX_METADATA_KEY: replace(CARD, precision=precision, **card).to_json()})
        path = self.folder / name
        onnx.save(model, path)
        return path

    def build(self, precision: str, *, run_ms: float | None = None, name: str = "", **options: Any) -> BuildReport:
        card = options.pop("card", {})
        path = self.write_onnx(f"{name or precision}.onnx", precision, **card)
        layers = options.pop("layers", GPU % {"int8": "Int8", "fp16": "Half"}.get(precision, "Float"))
        self.script = Script(layers=layers, batch=(1, 1, 1), **options.pop("script", {}))
        self.run_ms = run_ms
        return build_engine(path, path.with_suffix(".engine"), progress=False, **options)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(build, "load_tensorrt", machine.load)
    monkeypatch.setattr(engine_trial, "measure_run_ms", machine.measure)
    monkeypatch.setattr(engine_trial, "open_cuda", lambda: FakeCuda(machine.script))
    for module, name in ((build, "read_gpu"), (build, "find_gpu"), (log, "find_gpu")):
        monkeypatch.setattr(module, name, lambda: machine.gpu)
    monkeypatch.setattr(log, "read_host", lambda: JETSON)
    monkeypatch.setattr(log, "is_installed", lambda _: False)
    return machine


def test_a_build_times_a_run(machine: Machine) -> None:
    report = machine.build("fp16")
    card = read_engine_card(machine.folder / "fp16.engine")
    assert card.run_ms is not None
    assert card.run_ms > 0
    assert f"run: {card.run_ms:.3g} ms at batch 1 on this GPU" in str(report)
    assert report.advice is None  # there is no int8 to compare with


def test_the_time_of_a_run_is_the_median_without_the_first_ones() -> None:
    times_ms = iter([1e4] * WARM_UPS + [3.0 * RUNS] * (ROUNDS // 2 + 1) + [500.0 * RUNS] * (ROUNDS // 2))

    class ScriptedEvent(HostEvent):
        def elapsed_ms(self, earlier: Any) -> float:
            assert earlier is not self
            return next(times_ms)

    script = Script()
    cuda = FakeCuda(script)
    cuda.event = lambda *, timing=False: ScriptedEvent(timing)  # type: ignore[method-assign]
    with TensorRTEngine(fake_tensorrt(script), b"plan", CARD, cuda=cuda, source="m.engine") as engine:
        assert measure_run_ms(engine, 1) == 3.0
    assert next(times_ms, None) is None
    assert [call[0] for call in script.calls].count("execute") == 2  # once as it comes, once to be captured


@pytest.mark.parametrize("has_graphs", [True, False])
def test_where_no_graph_can_hold_it_a_run_is_timed_as_it_comes(has_graphs: bool) -> None:
    script = Script(capturable=False)
    cuda = FakeCuda(script)
    cuda.has_graphs = has_graphs
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    with TensorRTEngine(rtx, b"plan", CARD, cuda=cuda, source="m.engine") as engine:
        assert measure_run_ms(engine, 1) > 0
    runs = [call[0] for call in script.calls].count("execute")
    assert runs == 1 + RUNS * (WARM_UPS + ROUNDS)


def test_an_engine_that_does_not_run_is_not_timed() -> None:
    script = Script(runs=False, says=[(Severity.ERROR, "Error Code 1: Cask (no launch)")])
    cuda = FakeCuda(script)
    with (
        TensorRTEngine(fake_tensorrt(script), b"plan", CARD, cuda=cuda, source="m.engine") as engine,
        pytest.raises(SsdEdgeError, match=r"does not run: .*no launch"),
    ):
        measure_run_ms(engine, 1)


FASTER, SLOWER = 1.04, 1.52


@pytest.mark.parametrize("first", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("int8_ms", "verdict"),
    [
        (SLOWER, "int8 is not faster on this GPU; use fp16"),
        (1.355, "int8 is not faster on this GPU; use fp16"),  # by less than a hundredth
        (FASTER, "int8 is 1.31 times as fast on this GPU"),
    ],
)
def test_int8_is_compared_with_fp16_whichever_is_built_first(
    machine: Machine, first: str, int8_ms: float, verdict: str
) -> None:
    times_ms = {"int8": int8_ms, "fp16": 1.36}
    second = "fp16" if first == "int8" else "int8"
    machine.build(first, run_ms=times_ms[first])
    report = machine.build(second, run_ms=times_ms[second])
    one, other = (f"{times_ms[name]:.3g} ms" for name in (second, first))
    assert report.advice == (
        f"{second} takes {one}, {first} ({first}.engine, of {first}.onnx) {other}, at batch 1: {verdict}"
    )
    assert str(report).endswith(report.advice)


def test_an_int8_engine_alone_says_how_to_compare(machine: Machine) -> None:
    assert machine.build("int8", run_ms=1.0).advice == (
        "whether int8 is faster than fp16 on this GPU is not known; compare them with: "
        "ssd-edge bench FP16.onnx int8.onnx --data DATA"
    )
    assert machine.build("fp32", run_ms=1.0).advice is None


def other_gpu(machine: Machine) -> None:
    machine.gpu = replace(machine.gpu, name="Thor")


def other_version(machine: Machine) -> None:
    machine.version = "10.7.0"


def no_engine(machine: Machine) -> None:
    (machine.folder / "fp16.engine").unlink()


def damaged_card(machine: Machine) -> None:
    engine_card_path(machine.folder / "fp16.engine").write_text("{")


def no_card(machine: Machine) -> None:
    engine_card_path(machine.folder / "fp16.engine").unlink()


@pytest.mark.parametrize("change", [other_gpu, other_version, no_engine, damaged_card, no_card])
def test_only_what_differs_in_precision_alone_is_compared(machine: Machine, change: Callable[[Machine], None]) -> None:
    machine.build("fp16", run_ms=1.0)
    change(machine)
    assert "is not known" in str(machine.build("int8", run_ms=1.0).advice)


@pytest.mark.parametrize("card", [{"parent_sha256": "0" * 64}, {"arch": "other"}, {"class_names": ("x", "b", "c")}])
def test_another_model_is_not_compared(machine: Machine, card: dict[str, Any]) -> None:
    machine.build("fp16", run_ms=1.0, card=card)
    assert "is not known" in str(machine.build("int8", run_ms=1.0).advice)


def test_another_batch_is_not_compared_and_of_several_the_fastest_is(machine: Machine) -> None:
    machine.build("fp16", run_ms=3.0, name="b")
    machine.build("fp16", run_ms=2.0, name="a")
    machine.build("fp16", run_ms=1.0, name="c", batch=BatchSizes(1, 1, 2), script={})
    assert "fp16 (a.engine, of a.onnx) 2 ms" in str(machine.build("int8", run_ms=2.5).advice)


@pytest.mark.parametrize(
    ("precision", "reason"), [("int8", "a DLA takes no Q/DQ pairs"), ("fp32", "a DLA computes in half precision")]
)
def test_a_dla_takes_fp16_files_alone(machine: Machine, precision: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"--dla 0: .* is {precision}, and {reason}; .*export .*--precision fp16"):
        machine.build(precision, dla=0)
    assert machine.script.calls == []
    assert [path.name for path in machine.folder.iterdir()] == [f"{precision}.onnx"]


def test_an_engine_for_the_dla_has_layers_there(machine: Machine) -> None:
    report = machine.build("fp16", dla=1, layers=DLA, script={"dla_cores": 2})
    assert report.card.dla == 1
    assert ("DLA_core", 1) in machine.script.calls
    assert ("runs on DLA", 1) in machine.script.calls


@pytest.mark.parametrize("layers", [GPU % "Half", '{"Layers": []}', "no JSON"])
def test_an_engine_that_fell_back_to_the_gpu_is_not_written(machine: Machine, layers: str) -> None:
    with pytest.raises(GateFailedError, match=r"fp16\.engine is not written: .*no layer there"):
        machine.build("fp16", dla=0, layers=layers, script={"dla_cores": 2})
    assert [path.name for path in machine.folder.iterdir()] == ["fp16.onnx"]


@pytest.mark.parametrize("lacking", ["loads", "has_context"])
def test_rtx_builds_for_other_gpus_and_names_the_one_that_it_refuses(machine: Machine, lacking: str) -> None:
    machine.flavour, machine.version = "rtx", "1.7.1"
    report = machine.build("fp16", script={lacking: False, "says": [(Severity.ERROR, REFUSAL)]})
    assert "TensorRT-RTX 1.7.1 does not support Orin (compute capability 8.7), it lists" in str(report.not_run)
    assert f"use TensorRT ({tensorrt_fix(JETSON)})" in str(report.not_run)
    assert "build it again" not in str(report)
    assert (report.card.layers, report.card.run_ms) == (None, None)
    assert (machine.folder / "fp16.engine").is_file()


def test_tensorrt_itself_writes_nothing_that_this_gpu_refuses(machine: Machine) -> None:
    says = [(Severity.ERROR, "Error Code 1: Cuda Runtime (no kernel image is available for execution on the device)")]
    with pytest.raises(log.UnsupportedGpuError, match=r"TensorRT 10\.3\.0 does not support Orin .*support matrix"):
        machine.build("fp16", script={"loads": False, "says": says})
    assert [path.name for path in machine.folder.iterdir()] == ["fp16.onnx"]


PASSING = [  # what the script lets fail, and the words of the failure
    ({"loads": False, "says": [(Severity.ERROR, OUT_OF_MEMORY)]}, r"ran out of GPU memory: .*\(out of memory\)"),
    ({"loads": False, "says": [(Severity.ERROR, "Error Code 1: Cask")]}, r"cannot load it: .*Cask"),
    ({"runs": False, "says": [(Severity.ERROR, "Error Code 1: no launch")]}, "does not run: .*no launch"),
    ({"mallocs": 0}, "out of GPU memory for"),
]


@pytest.mark.parametrize(("script", "words"), PASSING)
def test_rtx_keeps_an_engine_that_fails_to_run_once_and_says_why(
    machine: Machine, script: dict[str, Any], words: str
) -> None:
    machine.flavour, machine.version = "rtx", "1.7.1"
    report = machine.build("fp16", script=script)
    assert re.search(rf"^Orin did not run it this time, but the engine is kept: .*{words}", str(report.not_run))
    assert not re.search("does not support|use TensorRT|another GPU", str(report))
    assert (machine.folder / "fp16.engine").is_file()


@pytest.fixture
def cached(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, on a machine with TensorRT-RTX."""
    machine.flavour, machine.version = "rtx", "1.7.1"
    folder = machine.folder / "cache"
    monkeypatch.setenv("SSD_EDGE_CACHE", str(folder))
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(True, None))
    monkeypatch.setattr(engine_cache, "read_gpu", lambda: machine.gpu)
    monkeypatch.setattr(engine_cache, "load_tensorrt", lambda: machine.load(None))
    return folder


@pytest.mark.parametrize(("script", "words"), PASSING)
def test_the_cache_forgets_what_failed_to_run_once(
    machine: Machine, cached: Path, script: dict[str, Any], words: str
) -> None:
    path = machine.write_onnx("fp16.onnx", "fp16")
    machine.script = Script(layers=GPU % "Half", **script)
    reasons: list[str] = []
    assert prepare_model(path, progress=False, on_cpu=reasons.append) == path
    assert re.search(words, reasons[0])
    assert not re.search("does not support|use TensorRT", reasons[0])
    assert list(cached.iterdir()) == []
    machine.script = Script(layers=GPU % "Half")  # memory is free again
    engine = prepare_model(path, progress=False, on_cpu=reasons.append)
    assert (engine.suffix, len(reasons)) == (".engine", 1)


def test_the_cache_remembers_a_gpu_that_rtx_does_not_support(machine: Machine, cached: Path) -> None:
    path = machine.write_onnx("fp16.onnx", "fp16")
    reasons: list[str] = []
    for _ in range(2):
        machine.script = Script(loads=False, says=[(Severity.ERROR, REFUSAL)])
        assert prepare_model(path, progress=False, on_cpu=reasons.append) == path
    assert machine.script.calls == []  # it was not built again
    assert reasons[0] == reasons[1]
    assert "TensorRT-RTX 1.7.1 builds an engine" in reasons[0]
    assert "does not support Orin (compute capability 8.7, CUDA 12.6)" in reasons[0]
    assert f"use TensorRT ({tensorrt_fix(JETSON)})" in reasons[0]
