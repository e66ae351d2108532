"""Versions of TensorRT and their differences: with fakes, and with TensorRT-RTX where it is installed."""

import _thread
import mmap
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper

from ssd_edge.errors import MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.host.kind import Host
from ssd_edge.runtime.tensorrt import log, versions
from ssd_edge.runtime.tensorrt.builder import CompileOptions, compile_network, parse_onnx
from ssd_edge.runtime.tensorrt.engine import deserialise
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes
from ssd_edge.runtime.tensorrt.log import MessageLog, UnsupportedGpuError
from ssd_edge.runtime.tensorrt.progress import Phases
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt
from tests.fakes.tensorrt import Builder, IBuilderConfig, Severity, fake_tensorrt
from tests.fakes.tensorrt_script import Script

ONE = BatchSizes(1, 1, 1)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Decide which TensorRT is installed, by version; None: not."""

    def install(tensorrt: str | None = None, rtx: str | None = None) -> None:
        for name, version in (("tensorrt", tensorrt), ("tensorrt_rtx_bindings", rtx), ("tensorrt_rtx", None)):
            module = None
            if version is not None:
                module = ModuleType(name)
                module.__version__ = version
                module.Builder = object
            monkeypatch.setitem(sys.modules, name, module)  # None: an import raises ModuleNotFoundError

    return install


def compiled(script: Script, options: CompileOptions, trt: TensorRT | None = None, **arguments: object) -> object:
    network = parse_onnx(trt or fake_tensorrt(script), b"", source="m.onnx")
    return compile_network(network, options, **arguments)


def test_tensorrt_comes_before_rtx(installed: Callable[..., None]) -> None:
    installed(tensorrt="11.4.1", rtx="1.7.1.116")
    assert str(load_tensorrt()) == "TensorRT 11.4.1"
    assert str(load_tensorrt("rtx")) == "TensorRT-RTX 1.7.1.116"
    installed(rtx="1.7.1.116")
    assert load_tensorrt().flavour == "rtx"
    with pytest.raises(UsageError, match="--tensorrt trt: expected tensorrt or rtx"):
        load_tensorrt("trt")


NO_GPU = Host()
DESKTOP = Host(nvidia=True, driver="580.65.06")
OLDER_DRIVER = Host(nvidia=True, driver="550.54.15")
JETSON = Host(nvidia=True, jetson=True, jetpack="6.2")
INSTALL = "in the folder of ssd-edge: pip install "
RTX, TENSORRT, FOR_CUDA_12 = (
    f"{INSTALL}{what}" for what in ("'.[rtx]'", "'.[tensorrt]'", "'.[cuda12]' 'tensorrt-cu12>=10.3'")
)
JETPACK = "sudo apt install nvidia-jetpack"


@pytest.mark.parametrize(
    ("host", "flavour", "message"),
    [
        (
            NO_GPU,
            None,
            f"neither TensorRT nor TensorRT-RTX is installed; without a GPU TensorRT-RTX builds engines; {RTX}",
        ),
        (NO_GPU, "tensorrt", f"no TensorRT is installed; {TENSORRT}"),
        (DESKTOP, None, f"neither TensorRT nor TensorRT-RTX is installed; {TENSORRT}"),
        (DESKTOP, "rtx", f"no TensorRT-RTX is installed; {RTX}"),
        (OLDER_DRIVER, None, f"neither TensorRT nor TensorRT-RTX is installed; {FOR_CUDA_12}"),
        (OLDER_DRIVER, "tensorrt", f"no TensorRT is installed; {FOR_CUDA_12}"),
        (JETSON, None, f"neither TensorRT nor TensorRT-RTX is installed; {JETPACK}"),
        (JETSON, "tensorrt", f"no TensorRT is installed; {JETPACK}"),
        (JETSON, "rtx", f"no TensorRT-RTX is installed; {RTX}"),
    ],
)
def test_no_tensorrt_names_the_one_for_this_machine(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, host: Host, flavour: str | None, message: str
) -> None:
    installed()
    monkeypatch.setattr(versions, "read_host", lambda: host)
    with pytest.raises(MissingDependencyError) as error:
        load_tensorrt(flavour)
    assert str(error.value) == message


@pytest.mark.parametrize("version", ["8.5.2.2", "10.2.0", "9.99"])
@pytest.mark.parametrize(
    ("host", "fix"), [(DESKTOP, TENSORRT), (OLDER_DRIVER, FOR_CUDA_12), (JETSON, "flash JetPack 6.1 or later")]
)
def test_an_old_tensorrt_is_refused(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, host: Host, fix: str, version: str
) -> None:
    installed(tensorrt=version)
    monkeypatch.setattr(versions, "read_host", lambda: host)
    with pytest.raises(SsdEdgeError) as error:
        load_tensorrt()
    assert str(error.value).startswith(f"TensorRT {version} is too old; 10.3 or later is needed: {fix}")


def test_the_oldest_tensorrt_is_taken(installed: Callable[..., None]) -> None:
    installed(tensorrt="10.3.0")
    assert load_tensorrt().version == "10.3.0"
    installed(rtx="1.6.0")
    with pytest.raises(SsdEdgeError, match=r"TensorRT-RTX 1\.6\.0 is too old"):
        load_tensorrt()


def test_a_broken_tensorrt_and_a_mere_folder(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed()
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tensorrt").mkdir()
    with pytest.raises(MissingDependencyError):
        load_tensorrt("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    with pytest.raises(SsdEdgeError, match=r"does not load: libnvinfer\.so\.10"):
        load_tensorrt("tensorrt")


def test_ctrl_c_while_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(versions.importlib, "import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_tensorrt()


def test_the_runtime_imports_no_tensorrt_and_no_cuda() -> None:
    code = (
        "import sys, ssd_edge.runtime.backends.tensorrt, ssd_edge.export.engine_cache; "
        "heavy = ('tensorrt', 'tensorrt_rtx_bindings', 'cuda', 'onnx', 'torch'); "
        "print(*[name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "\n")


def test_strong_typing_is_a_flag_only_where_there_is_one() -> None:
    script = Script()
    parse_onnx(fake_tensorrt(script, "10.3.0"), b"", source="m.onnx")
    without_flags = fake_tensorrt(script, "11.4.1", NetworkDefinitionCreationFlag=object())
    parse_onnx(without_flags, b"", source="m.onnx")
    assert script.calls == [("create_network", 1 << 1), ("create_network", 0)]


def test_one_batch_size_becomes_the_inputs_shape() -> None:
    script = Script()
    compiled(script, CompileOptions(BatchSizes(4, 4, 4)))
    assert script.calls[-1] == ("built", (4, 32, 32, 3), True)
    assert ("add_profile",) not in script.calls


def test_several_batch_sizes_become_a_profile() -> None:
    script = Script()
    compiled(script, CompileOptions(BatchSizes(1, 4, 16)))
    shapes = ((1, 32, 32, 3), (4, 32, 32, 3), (16, 32, 32, 3))
    assert script.calls[-3:] == [
        ("set_shape", "images", *shapes),
        ("add_profile",),
        ("built", (-1, 32, 32, 3), True),
    ]


def test_a_file_of_fixed_batch() -> None:
    network = parse_onnx(fake_tensorrt(Script()), b"", source="m.onnx")
    network.definition.get_input(0).shape = (4, 32, 32, 3)
    compile_network(network, CompileOptions(BatchSizes(4, 4, 4)))
    for batch in (ONE, BatchSizes(1, 4, 8)):
        with pytest.raises(UsageError, match=rf"--batch {batch}: the ONNX file fixes the batch at 4"):
            compile_network(network, CompileOptions(batch))


def test_options_reach_the_builder_and_no_precision_does() -> None:
    script = Script(dla_cores=2)
    compiled(script, CompileOptions(ONE, workspace_bytes=2 << 30, dla_core=1))
    assert script.calls[1:-1] == [
        ("profiling_verbosity", "detailed"),
        ("workspace", 2147483648),
        ("default_device_type", "dla"),
        ("DLA_core", 1),
        ("set_flag", "fallback"),
    ]


def test_a_dla_that_is_not_there_or_cannot() -> None:
    versions = (
        r"AGX Orin and Orin NX 16GB have two, Orin NX 8GB has one; TensorRT 10\.3 to 10\.7 \(JetPack 6\).*"
        r"11\.4\.1 \(JetPack 7\.2\.2 or later\) those of AGX Orin"
    )
    with pytest.raises(UsageError, match=rf"--dla 0: TensorRT 10\.3\.0 finds no DLA cores here: .*{versions}"):
        compiled(Script(), CompileOptions(ONE, dla_core=0))
    with pytest.raises(UsageError, match=r"--dla 2: .* finds 2 DLA cores"):
        compiled(Script(dla_cores=2), CompileOptions(ONE, dla_core=2))
    with pytest.raises(UsageError, match="--batch 1,4,8: a DLA takes one batch size"):
        compiled(Script(dla_cores=2), CompileOptions(BatchSizes(1, 4, 8), dla_core=0))


def test_rtx_is_asked_for_engines_that_a_cuda_graph_can_hold() -> None:
    script = Script()
    flags = SimpleNamespace(REQUIRE_USER_ALLOCATION="user allocation")
    compiled(script, CompileOptions(ONE), fake_tensorrt(script, "1.7.1", "rtx", BuilderFlag=flags))
    assert ("set_flag", "user allocation") in script.calls


def test_timing_caches(caplog: pytest.LogCaptureFixture) -> None:
    assert compiled(Script(), CompileOptions(ONE)).timing_cache is None
    assert compiled(Script(), CompileOptions(ONE, timing_cache=b"old")).timing_cache == b"old and more"
    assert not caplog.messages
    script = Script(takes_cache=False)  # of another GPU
    assert compiled(script, CompileOptions(ONE, timing_cache=b"old")).timing_cache == b" and more"
    assert "another TensorRT or GPU" in caplog.messages[0]
    script = Script()
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    assert compiled(script, CompileOptions(ONE, timing_cache=b"old"), rtx).timing_cache is None
    assert "does not use timing caches" in caplog.messages[1]


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (  # as in reports of TensorRT 10
            "IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error "
            "(Target GPU SM 61 is not supported by this TensorRT release.)",
            r"^TensorRT 10\.3\.0 does not support this GPU: .*SM 61.*support matrix",
        ),
        (
            "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
            r"ran out of GPU memory: .*smaller --batch, now 1, .*--workspace, now 2\.1 GB",
        ),
        (
            "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
            "ran out of GPU memory",
        ),
        (
            "Error Code 10: Internal Error (Could not find any implementation for node /head/conv + /head/relu.)",
            r"no kernel for /head/conv \+ /head/relu.*--workspace",
        ),
        ("Error Code 4: API Usage Error (conv_7: kernel weights has count 3)", "cannot build the engine: .*conv_7"),
    ],
)
def test_failures_quote_tensorrt_and_name_the_remedy(monkeypatch: pytest.MonkeyPatch, says: str, message: str) -> None:
    monkeypatch.setattr(log, "find_gpu", lambda: None)
    script = Script(plan=None, says=[(Severity.VERBOSE, "out of memory"), (Severity.ERROR, says)])
    with pytest.raises(SsdEdgeError, match=message):
        compiled(script, CompileOptions(ONE, workspace_bytes=2 << 30))


def test_a_log_keeps_what_matters() -> None:
    script = Script()
    log = MessageLog(fake_tensorrt(script))
    for severity in Severity:
        log.logger.log(severity, f"a {severity.name}\nof two lines")
    log.logger.log(Severity.ERROR, "again. In f at /_src/x.cpp:12)")
    log.logger.log(Severity.ERROR, "again. In f at /_src/x.cpp:13)")
    assert [message.severity for message in log.messages[:4]] == ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"]
    assert len(log.messages) == 6
    assert log.quote() == "a INTERNAL_ERROR of two lines; a ERROR of two lines; again.)"


def test_progress_of_phases_inside_each_other_only_rises() -> None:
    phases = Phases()
    phases.start("build", None, 4)
    phases.start("optimise", "build", 2)
    seen = []
    for name, step in (("optimise", 0), ("optimise", 1), ("build", 0), ("unheard of", 3), ("build", 3), ("build", 9)):
        phases.step(name, step)
        seen.append(phases.fraction)
    assert seen == [0.125, 0.25, 0.25, 0.25, 1, 1]
    phases.start("build", None, 4)
    phases.step("build", 0)
    assert phases.fraction == 1


def test_progress_is_told() -> None:
    told = []
    compiled(Script(), CompileOptions(ONE), progress=lambda fraction, phase: told.append((fraction, phase)))
    assert told == [(0.5, "Building engine"), (1.0, "Building engine")]


def test_ctrl_c_cancels_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    original = Builder.build_serialized_network

    def interrupted(builder: Builder, network: object, config: IBuilderConfig) -> bytes | None:
        _thread.interrupt_main()  # what Ctrl-C does
        while config.progress_monitor.step_complete("Building engine", 0):
            pass
        return original(builder, network, config)

    monkeypatch.setattr(Builder, "build_serialized_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled(script, CompileOptions(ONE))
    assert script.calls[-1] == ("built", (1, 32, 32, 3), False)  # it had ended before the exception went on


def test_an_error_in_the_builders_thread_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Builder, "build_serialized_network", fails)
    with pytest.raises(ZeroDivisionError):
        compiled(Script(), CompileOptions(ONE))


def test_a_builder_that_does_not_start() -> None:
    script = Script(says=[(Severity.ERROR, "CUDA initialization failure with error: 35")])

    def builder(logger: object) -> None:
        script.logger = logger
        script.speak()
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(SsdEdgeError, match=r"does not start: CUDA initialization failure.*--tensorrt rtx"):
        parse_onnx(fake_tensorrt(script, Builder=builder), b"", source="m.onnx")


def test_engines_may_not_bring_code_for_the_host() -> None:
    script = Script()
    deserialise(fake_tensorrt(script), b"plan", source="m.engine")
    assert script.calls == [("deserialise", b"plan", False)]


@pytest.mark.parametrize(
    ("says", "kind", "message"),
    [
        (  # as TensorRT 10 says it
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == "
            "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 239, Serialized Engine "
            "Version: 240)",
            ModelFileError,
            "Version tag does not match.*build it again here",
        ),
        ("Error Code 1: Cuda Runtime (out of memory)", SsdEdgeError, "ran out of GPU memory"),
        ("cudaError 35: CUDA driver version is insufficient", SsdEdgeError, "no NVIDIA driver or GPU.*onnx"),
    ],
)
def test_engines_that_do_not_load(says: str, kind: type[SsdEdgeError], message: str) -> None:
    script = Script(loads=False, says=[(Severity.ERROR, says)])
    with pytest.raises(kind, match=rf"m\.engine: TensorRT 10\.3\.0 .*{message}") as caught:
        deserialise(fake_tensorrt(script), b"", source="m.engine")
    assert type(caught.value) is kind


# Of TensorRT-RTX 1.7.1: when it loads an engine on a GPU that it does not list, and when the engine is for others.
REFUSAL = (
    "The engine cannot run on this GPU, which has compute capability ",
    "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it.",
)
FOR_OTHERS = "Rebuild the engine for compute capability "
BUILD_REFUSAL = ("Target GPU SM ", " is not supported by this TensorRT release.")
NO_REFUSAL = "Updating targets to remove unsupported SMs"  # said while it builds, of other GPUs
SM_REFUSAL = "Unsupported sm version."
H200 = Gpu("NVIDIA H200", "9.0", "13.0")


def test_the_words_of_a_refusal_are_those_of_the_library() -> None:
    libraries = pytest.importorskip("tensorrt_rtx_libs")
    path = Path(libraries.__file__).with_name("libtensorrt_rtx.so.1")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for words in (*REFUSAL, FOR_OTHERS, *BUILD_REFUSAL, NO_REFUSAL, SM_REFUSAL):
            assert content.find(words.encode()) != -1


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_gpu", lambda: H200)
    monkeypatch.setattr(log, "read_host", lambda: DESKTOP)
    monkeypatch.setattr(log, "is_installed", lambda _: False)


UNSUPPORTED = (
    r"^TensorRT-RTX 1\.7\.1 does not support NVIDIA H200 \(compute capability 9\.0\), it lists compute capability "
    rf"7\.5, 12\.0: .*; use TensorRT \({re.escape(TENSORRT)}\), or run the \.onnx file with ONNX Runtime or the "
    "checkpoint with PyTorch$"
)


def refusing_rtx(*words: str, **members: object) -> TensorRT:
    """A TensorRT-RTX 1.7.1 that loads nothing and builds nothing, with these words."""
    script = Script(
        loads=False, plan=None, says=[(Severity.ERROR, "Error Code 4: API Usage Error (" + " ".join(words))]
    )
    return fake_tensorrt(script, "1.7.1", "rtx", **members)


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(
    "words", [(f"{REFUSAL[0]}9.0.",), (f"{REFUSAL[0]}9.0.", REFUSAL[1]), (REFUSAL[1],), (SM_REFUSAL,)]
)
def test_rtx_refuses_a_gpu_when_it_loads(words: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        deserialise(refusing_rtx(*words), b"plan", source="m.engine")


@pytest.mark.usefixtures("h200")
def test_rtx_refuses_a_gpu_when_it_builds() -> None:
    rtx = refusing_rtx(f"{BUILD_REFUSAL[0]}90{BUILD_REFUSAL[1]}")
    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        compile_network(parse_onnx(rtx, b"", source="m.onnx"), CompileOptions(ONE))


@pytest.mark.usefixtures("h200")
def test_rtx_refuses_a_gpu_when_it_starts() -> None:
    def start(logger: Any) -> None:
        logger.log(Severity.ERROR, f"{REFUSAL[0]}9.0. {REFUSAL[1]}")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        parse_onnx(refusing_rtx("", Builder=start), b"", source="m.onnx")
    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        deserialise(refusing_rtx("", Runtime=start), b"plan", source="m.engine")


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(
    ("host", "there", "fix"),
    [
        (OLDER_DRIVER, False, f"({FOR_CUDA_12})"),
        (JETSON, False, f"({JETPACK})"),
        (JETSON, True, "with --tensorrt tensorrt"),
    ],
)
def test_a_gpu_that_rtx_refuses_gets_the_tensorrt_for_its_machine(
    monkeypatch: pytest.MonkeyPatch, host: Host, there: bool, fix: str
) -> None:
    monkeypatch.setattr(log, "read_host", lambda: host)
    monkeypatch.setattr(log, "is_installed", lambda _: there)
    with pytest.raises(UnsupportedGpuError, match=re.escape(f"use TensorRT {fix}, or run")):
        deserialise(refusing_rtx(REFUSAL[1]), b"plan", source="m.engine")


OUT_OF_MEMORY = "Error Code 1: Cuda Runtime (out of memory)"


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(
    "says",
    [
        [(Severity.WARNING, NO_REFUSAL), (Severity.ERROR, OUT_OF_MEMORY)],
        [(Severity.WARNING, REFUSAL[1]), (Severity.ERROR, OUT_OF_MEMORY)],
        [(Severity.ERROR, BUILD_REFUSAL[0] + "61" + BUILD_REFUSAL[1]), (Severity.ERROR, OUT_OF_MEMORY)],
    ],
)
def test_lack_of_memory_is_no_refusal_of_the_gpu(says: list[tuple[Severity, str]]) -> None:
    rtx = fake_tensorrt(Script(loads=False, plan=None, says=says), "1.7.1", "rtx")
    for fails in (
        lambda: deserialise(rtx, b"plan", source="m.engine"),
        lambda: compile_network(parse_onnx(rtx, b"", source="m.onnx"), CompileOptions(ONE)),
    ):
        with pytest.raises(SsdEdgeError, match="ran out of GPU memory") as caught:
            fails()
        assert type(caught.value) is SsdEdgeError


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.ERROR])
def test_targets_that_are_left_out_are_no_refusal_of_the_gpu(severity: Severity) -> None:
    says = [(severity, NO_REFUSAL), (Severity.ERROR, "Error Code 1: Cask (no launch)")]
    rtx = fake_tensorrt(Script(loads=False, says=says), "1.7.1", "rtx")
    with pytest.raises(ModelFileError, match=r"cannot load it: .*no launch"):
        deserialise(rtx, b"plan", source="m.engine")


@pytest.mark.usefixtures("h200")
def test_an_engine_for_other_gpus_is_to_be_built_again() -> None:
    rtx = refusing_rtx(f"{REFUSAL[0]}8.9.", f"{FOR_OTHERS}8.9 with IBuilderConfig::setComputeCapability")
    with pytest.raises(ModelFileError, match="build it again here"):
        deserialise(rtx, b"plan", source="m.engine")


@pytest.fixture
def rtx() -> TensorRT:
    pytest.importorskip("tensorrt_rtx_bindings")
    return load_tensorrt("rtx")


def test_rtx_reads_and_builds(rtx: TensorRT, model_path: Path) -> None:
    network = parse_onnx(rtx, model_path.read_bytes(), source="colour.onnx")
    assert [(t.name, t.dtype, t.shape[1:], t.is_input) for t in network.tensors()] == [
        ("images", "UINT8", (32, 32, 3), True),
        ("boxes", "FLOAT", (16, 4), False),
        ("scores", "FLOAT", (16, 3), False),
    ]
    told: list[float] = []
    result = compile_network(network, CompileOptions(BatchSizes(1, 2, 4)), lambda fraction, _: told.append(fraction))
    assert len(result.plan) > 1000
    assert told == sorted(told)
    assert 0.5 < told[-1] <= 1


def test_rtx_names_the_node_that_it_cannot_read(rtx: TensorRT) -> None:
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])
    planes = helper.make_tensor_value_info("planes", TensorProto.UINT8, ["batch", 3, 4, 4])
    node = helper.make_node("Transpose", ["images"], ["planes"], name="to_planes", perm=[0, 3, 1, 2])
    graph = helper.make_graph([node], "g", [image], [planes])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelFileError, match=r"m\.onnx: TensorRT-RTX .* node to_planes \(Transpose\): .*type UInt8"):
        parse_onnx(rtx, model.SerializeToString(), source="m.onnx")


@pytest.mark.parametrize("content", [b"this is no protobuf", b"\x08", b""])
def test_rtx_refuses_what_is_no_onnx(rtx: TensorRT, content: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"m\.onnx"):
        parse_onnx(rtx, content, source="m.onnx")
