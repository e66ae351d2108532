"""Everything that the code asks of TensorRT is in its real bindings, of the oldest version to the newest.

What the code asks is read from the code: `binding_uses.py`. The bindings are NVIDIA's own: `real_bindings.py`.
"""

import ast
import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssd_edge.runtime.tensorrt import versions
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.tensorrt_script import Script
from tests.runtime.tensorrt.binding_uses import Uses, check_uses
from tests.runtime.tensorrt.real_bindings import describe, tensorrt_bindings
from tests.runtime.tensorrt.stand_in_surplus import class_surplus, module_surplus

ROOT = Path(__file__).resolve().parents[3]
API = re.compile(r"ssd_edge[.]runtime[./]tensorrt[./](?!engine_card\b)\w")
RTX = "tensorrt_rtx_bindings"
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")  # JetPack 6.1 and 6.2, 7.1, 7.2, and the newest
INSTALLED = (*VERSIONS, RTX)


@cache
def bindings(version: str) -> dict[str, Any]:
    """Of a version of TensorRT, or of TensorRT-RTX as it is installed."""
    if version != RTX:
        return tensorrt_bindings(version)
    if importlib.util.find_spec(RTX) is None:
        pytest.skip("TensorRT-RTX is not installed")
    return describe(RTX)


def flavour(version: str) -> str:
    return "rtx" if version == RTX else "tensorrt"


@cache
def sources() -> dict[str, str]:
    """The modules that work with TensorRT: those of `runtime/tensorrt/`, and those that import them."""
    files = [file for folder in ("ssd_edge", "export", "calib", "runtime") for file in (ROOT / folder).rglob("*.py")]
    texts = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in sorted(set(files))}
    return {name: text for name, text in texts.items() if any(map(API.match, [f"ssd_edge.{name}", *imported(text)]))}


def imported(text: str) -> set[str]:
    """Modules that a source imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@cache
def uses(version: str) -> Uses:
    return check_uses(sources(), bindings(version), flavour(version))


@pytest.mark.parametrize("version", INSTALLED)
def test_the_code_fits_the_real_bindings(version: str) -> None:
    known = {"runtime/tensorrt/versions.py", "runtime/backends/tensorrt.py", "export/engine/build.py"}
    assert known <= sources().keys()
    assert uses(version).problems == []


@pytest.mark.parametrize("version", INSTALLED)
def test_every_class_in_an_annotation_is_followed(version: str) -> None:
    """Else the first test could pass because it sees nothing."""
    named = {name for name in vars(versions) if getattr(versions, name) is Any} - {"Any"}
    there = {name for name in named if uses(version).optional.get(name)}
    followed = {path.partition(".")[0] for path in uses(version).used if "." in path}
    if version == RTX:
        assert named <= bindings(version)["members"].keys()
        assert named - {"Runtime"} <= followed  # which is held, so that it outlives its engines
    else:
        assert there - {"IRuntimeConfig", "Runtime"} <= followed  # the former only of RTX


def test_what_is_optional_is_in_one_of_them() -> None:
    found = [uses(version).optional for version in (VERSIONS[0], VERSIONS[-1], RTX)]
    names = {name for optional in found for name in optional}
    assert {"BuilderFlag.REQUIRE_USER_ALLOCATION", "Builder.num_DLA_cores", "ComputeCapability"} <= names
    assert [name for name in sorted(names) if not any(optional.get(name) for optional in found)] == []


SOURCE = """
from types import ModuleType
from typing import Any, TypeAlias

Builder: TypeAlias = Any
IBuilderConfig: TypeAlias = Any

class TensorRT:
    flavour: str
    api: ModuleType

class Holder:
    builder: Builder

    def __init__(self, trt: TensorRT) -> None:
        self.trt = trt
        self.runtime = trt.api.Runtime(logger_of(trt))

def logger_of(trt: TensorRT):
    base = trt.api.ILogger

    def log(_, severity, text):
        print(severity.name, text)

    return type("Logger", (base,), {"__init__": lambda logger: base.__init__(logger), "log": log})()

def build(holder: Holder, config: IBuilderConfig, other: Any) -> None:
    trt, network = holder.trt, holder.builder.create_network(1)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for index, tensor in enumerate([*inputs, network.get_output(0)]):
        print(index, tensor.dtype.name, *tensor.shape)
    profile = holder.builder.create_optimization_profile()
    profile.set_shape("images", *[(1, 2)] * 3)
    config.set_memory_pool_limit(trt.api.MemoryPoolType.WORKSPACE, pool_size=4)
    config.progress_monitor = None
    if hasattr(trt.api.BuilderFlag, "OF_NO_VERSION"):
        config.set_flag(trt.api.BuilderFlag.OF_NO_VERSION)
    if trt.flavour == "other":
        trt.api.of_no_version()
    core = getattr(holder.builder, "core_of_no_version", 0)
    plan = call(holder.builder.build_serialized_network, network, config)
    later({"work": lambda: config.set_timing_cache(None, False)})
    engine = holder.runtime.deserialize_cuda_engine(plan)
    [engine.get_tensor_profile_shape(name, 0)[0] for name in "ab"]
"""


def test_a_source_that_fits() -> None:
    found = check_uses({"s.py": SOURCE}, bindings(RTX), "rtx")
    assert found.problems == []
    optional = {"BuilderFlag.OF_NO_VERSION": False, "Builder.core_of_no_version": False}
    assert {name: there for name, there in found.optional.items() if "." in name} == optional
    assert {"ICudaEngine.get_tensor_profile_shape", "ITensor.shape", "DataType.name", "Dims"} - found.used == {"Dims"}


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("api.ILogger", "api.ILoger", "there is no ILoger"),
        ("MemoryPoolType.WORKSPACE", "MemoryPoolType.WORKPLACE", "there is no MemoryPoolType.WORKPLACE"),
        ("network.num_inputs", "network.num_input", "there is no INetworkDefinition.num_input"),
        ("tensor.dtype.name", "tensor.dtype.nam", "there is no DataType.nam"),
        ("severity.name", "severity.nam", "there is no ILogger.Severity.nam"),
        ("holder.builder.create_network(1)", "holder.builder.make()", "there is no Builder.make"),
        ("create_network(1)", "create_network(1, 2)", "Builder.create_network does not take these arguments: 2 pos"),
        ("create_network(1)", "create_network(flag=1)", "0 positional, flag=; it takes (flags)"),
        ("pool_size=4", "size=4", "IBuilderConfig.set_memory_pool_limit does not take these arguments: 1 pos"),
        ("Runtime(logger_of(trt))", "Runtime()", "Runtime.__init__ does not take these arguments: 0 positional"),
        ("get_output(0)", "get_output()", "INetworkDefinition.get_output does not take these arguments: 0 pos"),
        ("(name, 0)[0]", "(name)[0]", "ICudaEngine.get_tensor_profile_shape does not take these arguments: 1 pos"),
        ("(None, False)", "(None)", "IBuilderConfig.set_timing_cache does not take these arguments: 1 positional"),
        ("network, config)", "network)", "Builder.build_serialized_network does not take these arguments: 1 pos"),
        ("config.progress_monitor =", "config.progress =", "there is no IBuilderConfig.progress"),
        ("config.progress_monitor =", "holder.builder.num_DLA_cores =", "Builder.num_DLA_cores cannot be set"),
        ('"log": log', '"logs": log', "there is no ILogger.logs to override"),
        ("def log(_, severity, text)", "def log(_, severity)", "ILogger.log takes (severity, msg), and is overridden"),
        ('== "other"', '== "rtx"', "there is no of_no_version"),
        ('hasattr(trt.api.BuilderFlag, "OF_NO_VERSION")', "core", "there is no BuilderFlag.OF_NO_VERSION"),
        ("config: IBuilderConfig", "config: Any", "Any may have .set_memory_pool_limit or not: annotate it"),
    ],
)
def test_a_source_that_does_not_fit(right: str, wrong: str, problem: str) -> None:
    assert SOURCE.count(right) == 1
    found = check_uses({"s.py": SOURCE.replace(right, wrong)}, bindings(RTX), "rtx").problems
    assert found
    assert problem in found[0]


def test_a_problem_names_the_place() -> None:
    text = "from types import ModuleType\ndef f(api: ModuleType) -> None:\n    api.Build()\n"
    assert check_uses({"a.py": "", "b.py": text}, bindings(RTX), "rtx").problems == ["b.py:3: there is no Build"]


@pytest.mark.parametrize("version", [VERSIONS[0], RTX])
def test_the_stand_in_has_nothing_that_the_real_one_lacks(version: str) -> None:
    kind = flavour(version)
    module = fake_tensorrt.fake_api(Script(), "", kind)
    source = inspect.getsource(fake_tensorrt)
    assert module_surplus(vars(module), bindings(version)) == []
    assert class_surplus(source, bindings(version), rtx=kind == "rtx") == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("def create_runtime_config(", "def create_runtime(", "there is no ICudaEngine.create_runtime"),
        (
            "def set_flag(self, flag: str)",
            "def set_flag(self)",
            "IBuilderConfig.set_flag takes 1, not 0 to 0",
        ),
        ("self.profiler", "self.profile", "there is no IExecutionContext.profile"),
        ("class INetworkDefinition:", "class INetwork:", "there is no INetwork"),
        ("num_io_tensors = 3", "num_tensors = 3", "there is no ICudaEngine.num_tensors"),
    ],
)
def test_a_stand_in_that_has_more_is_found(right: str, wrong: str, problem: str) -> None:
    source = inspect.getsource(fake_tensorrt)
    assert source.count(right) == 1
    assert class_surplus(source.replace(right, wrong), bindings(RTX), rtx=True) == [problem]
    members = {"Builder": object, "BuilderFlag": SimpleNamespace(GPU_FALLBACK=1, FALLBACK=2), "Build": object}
    assert module_surplus(members, bindings(RTX)) == ["there is no BuilderFlag.FALLBACK", "there is no Build"]
