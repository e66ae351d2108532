"""The base install is enough for what it promises, and what is missing is named."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import ssd_edge
from ssd_edge.cli.errors import EXTRA_OF_PACKAGE
from ssd_edge.cli.main import COMMANDS

# What the extras bring; none of it comes with a base install.
OPTIONAL = (*EXTRA_OF_PACKAGE, "PIL", "cuda", "pycuda", "pynvml", "scipy", "tensorrt", "tensorrt_rtx")
# What brings it, if not its name.
DISTRIBUTIONS = {
    "PIL": {"torchvision", "matplotlib"},
    "cuda": {"cuda-core"},
    "paho": {"paho-mqtt"},
    "prometheus_client": {"prometheus-client"},
    "pynvml": {"nvidia-ml-py"},
    "scipy": {"trackers"},
    "supervision": {"trackers"},
    "tensorrt_rtx": {"tensorrt-rtx-cu13-bindings"},
    "yaml": {"pyyaml"},
    "zxingcpp": {"zxing-cpp"},
}

# Modules, and packages with all that is in them and not named elsewhere, that import at their top what an extra brings.
# A base install is enough for all others.
NEEDS = {
    "demo": (
        "ssd_edge.data.codes",
        "ssd_edge.demo",
        "ssd_edge.evaluation.coco_metrics",
        "ssd_edge.evaluation.evaluate",
        "ssd_edge.parity.run",
    ),
    "export": (
        *("ssd_edge.calib.activations", "ssd_edge.calib.calibrate", "ssd_edge.calib.placement", "ssd_edge.calib.qat"),
        *("ssd_edge.export.compare", "ssd_edge.export.fp16", "ssd_edge.export.int8", "ssd_edge.export.onnx_export"),
        "ssd_edge.export.adopt",
        *("ssd_edge.export.trace", "ssd_edge.onnx_graph", "ssd_edge.parity.taps_onnx"),
    ),
    "mqtt": ("ssd_edge.runtime.sinks.mqtt.connection", "ssd_edge.runtime.sinks.mqtt.sink"),
    "report": (
        *("ssd_edge.bench.plot", "ssd_edge.evaluation.plot_images"),
        *("ssd_edge.evaluation.plots", "ssd_edge.evaluation.report"),
    ),
    "train": (
        *("ssd_edge.checkpoint", "ssd_edge.data.augment", "ssd_edge.data.samples", "ssd_edge.models"),
        *("ssd_edge.importers.amdegroot", "ssd_edge.importers.caffe", "ssd_edge.importers.caffe_head"),
        *("ssd_edge.importers.caffe_layers", "ssd_edge.importers.conversions", "ssd_edge.importers.family"),
        *("ssd_edge.importers.importing", "ssd_edge.importers.pytorch_ssd"),
        *("ssd_edge.importers.pytorch_ssd_lightning", "ssd_edge.importers.state_dicts"),
        *("ssd_edge.importers.torchvision", "ssd_edge.importers.vgg"),
        *("ssd_edge.parity.taps_torch", "ssd_edge.runtime.backends.torch", "ssd_edge.runtime.backends.torch_cuda"),
        *("ssd_edge.torch_device", "ssd_edge.training"),
    ),
    "web": (
        *("ssd_edge.runtime.sinks.web.access", "ssd_edge.runtime.sinks.web.metrics"),
        "ssd_edge.runtime.sinks.web.server",
    ),
}

IMPORT_ALL = """
from importlib import import_module
for module in sys.argv[1:]:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        print(module, error.name)
"""


@cache
def modules() -> tuple[str, ...]:
    """All modules of ssd-edge but `__main__`, found without importing any of them."""
    root = Path(ssd_edge.__path__[0])
    files = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    paths = (file.relative_to(root.parent).with_suffix("") for file in files if file.suffix == ".py")
    return tuple(sorted(".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"))


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def extra_of(module: str) -> str | None:
    """The extra whose entry is the nearest to `module`; None: it belongs to the base install."""
    entries = [(len(entry), extra) for extra, names in NEEDS.items() for entry in names if inside(module, entry)]
    return max(entries)[1] if entries else None


def needing(extra: str | None) -> list[str]:
    return [module for module in modules() if extra_of(module) == extra]


@cache
def extras() -> dict[str, list[str]]:
    """Requirements by extra, as pyproject.toml has them."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    found: dict[str, list[str]] = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    return found


def brings(extra: str, package: str) -> bool:
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in extras()[extra]}
    return bool(DISTRIBUTIONS.get(package, {package}) & names)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def without(*packages: str) -> str:
    """Code after which importing any of `packages` fails as if it were not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({packages!r})); "


def test_what_a_base_install_does_is_among_its_modules() -> None:
    """The next tests look at what `modules` finds: at every depth."""
    assert {
        "ssd_edge.bundled",
        "ssd_edge.card",
        "ssd_edge.cli.main",
        "ssd_edge.cli.stream",
        "ssd_edge.data.formats.coco",
        "ssd_edge.data.readers",
        "ssd_edge.export.engine.cache",
        "ssd_edge.files",
        "ssd_edge.images",
        "ssd_edge.runtime.backends.onnxruntime",
        "ssd_edge.runtime.backends.tensorrt",
        "ssd_edge.runtime.cuda.kernels",
        "ssd_edge.runtime.doctor.diagnosis",
        "ssd_edge.runtime.sinks.mqtt.broker",
        "ssd_edge.runtime.sinks.web.board",
        "ssd_edge.runtime.stream.run",
        "ssd_edge.runtime.tracking.tracker",
    } <= set(needing(None))


def test_base_modules_import_without_the_extras() -> None:
    result = run_python(without(*OPTIONAL) + IMPORT_ALL, *needing(None))
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_base_modules_import_no_extra_where_it_is_installed() -> None:
    show = f"print(*sorted({set(OPTIONAL)} & set(sys.modules)))"
    result = run_python(f"import sys; {IMPORT_ALL}{show}", *needing(None))
    assert (result.returncode, result.stdout) == (0, "\n"), result.stderr


@pytest.mark.parametrize("extra", NEEDS)
def test_modules_of_an_extra_need_it(extra: str) -> None:
    """Each entry of `NEEDS` has a module that fails for want of something that the extra brings."""
    result = run_python(without(*(name for name in OPTIONAL if brings(extra, name))) + IMPORT_ALL, *needing(extra))
    assert result.returncode == 0, result.stderr
    failed = [line.split()[0] for line in result.stdout.splitlines()]
    assert [entry for entry in NEEDS[extra] if not any(inside(module, entry) for module in failed)] == []


@pytest.mark.parametrize("extra", NEEDS)
def test_an_extra_brings_all_that_its_modules_import(extra: str) -> None:
    result = run_python(without(*(name for name in OPTIONAL if not brings(extra, name))) + IMPORT_ALL, *needing(extra))
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


@pytest.mark.parametrize("package", EXTRA_OF_PACKAGE)
def test_messages_name_an_extra_that_brings_the_package(package: str) -> None:
    assert brings(EXTRA_OF_PACKAGE[package], package)


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ssd_edge.cli.main import COMMANDS, main\n"
        "for arguments in ([], *([command] for command in COMMANDS)):\n"
        "    try: main([*arguments, '--help'])\n"
        "    except SystemExit: pass\n"
        "print(*sorted({'numpy', 'cv2', 'torch', 'onnxruntime', 'tqdm'} & set(sys.modules)), file=sys.stderr)"
    )
    result = run_python(code)
    assert (result.returncode, result.stderr) == (0, "\n")
    assert result.stdout.count("usage: ssd-edge") == 1 + len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_subcommand_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ssd_edge.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: ssd-edge {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("torch", ["export", "c.pt", "-o", "m.onnx"], "export"),
        ("onnx", ["export", "c.pt", "-o", "m.onnx"], "export"),
        ("torch", ["train", "codes", "-o", "run"], "train"),
        ("pycocotools", ["eval", "m.onnx", "data"], "demo"),
        ("matplotlib", ["eval", "m.onnx", "data", "--report", "r"], "report"),
        ("zxingcpp", ["codes", "-o", "scenes"], "demo"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(missing: str, command: list[str], extra: str) -> None:
    code = without(missing) + "from ssd_edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    result = run_python(code, *command)
    assert result.returncode == 1
    assert (
        f"package {missing}, which is not installed; in the folder of ssd-edge: pip install '.[{extra}]'"
        in result.stderr
    )
    assert "Traceback" not in result.stderr


def test_the_package_offers_its_names_without_importing_them() -> None:
    code = (
        "import sys, ssd_edge; assert 'numpy' not in sys.modules; "
        "assert {'create_model', 'open_detector', 'read_dataset', 'Detections', 'ModelCard'} <= set(dir(ssd_edge)); "
        "from ssd_edge import Detections, ModelCard, open_detector, read_dataset; "
        "assert 'torch' not in sys.modules; print(len(Detections.empty()))"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")


def test_a_name_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssd_edge.nothing


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where it keeps its file is known on Linux only")
def test_onnx_runtime_tells_its_makers_nothing(tmp_path: Path) -> None:
    """With telemetry it keeps a database and an identifier in the home folder, of which nothing may be left."""
    code = "import ssd_edge, ssd_edge.bundled as b; ssd_edge.open_detector(b.bundled_model()).close()"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}  # CI=… would switch it off too
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
