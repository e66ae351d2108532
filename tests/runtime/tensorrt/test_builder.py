"""Builds: with a stand-in for TensorRT, and with TensorRT-RTX where it is installed."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.runtime.tensorrt import log
from ssd_edge.runtime.tensorrt.builder import Compiled, CompileOptions, compile_network, parse_onnx
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes
from ssd_edge.runtime.tensorrt.progress import Progress
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt
from tests.fakes.tensorrt import Builder, IBuilderConfig, INetworkDefinition, Severity, fake_tensorrt
from tests.fakes.tensorrt_script import Script

ONE = BatchSizes(1, 1, 1)


def compiled(
    script: Script, options: CompileOptions, trt: TensorRT | None = None, progress: Progress | None = None
) -> Compiled:
    network = parse_onnx(trt or fake_tensorrt(script), b"", source="m.onnx")
    return compile_network(network, options, progress)


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


def test_progress_is_told() -> None:
    told = []
    compiled(Script(), CompileOptions(ONE), progress=lambda fraction, phase: told.append((fraction, phase)))
    assert told == [(0.5, "Building engine"), (1.0, "Building engine")]


def test_ctrl_c_cancels_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    original = Builder.build_serialized_network

    def interrupted(builder: Builder, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        signal.raise_signal(signal.SIGINT)  # what Ctrl-C does
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
