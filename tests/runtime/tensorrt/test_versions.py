"""Which TensorRT is taken, and what is said where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ssd_edge.errors import MissingDependencyError, SsdEdgeError, UsageError
from ssd_edge.runtime.host.kind import Host
from ssd_edge.runtime.tensorrt import versions
from ssd_edge.runtime.tensorrt.versions import load_tensorrt
from tests.runtime.tensorrt.hosts import DESKTOP, FOR_CUDA_12, JETPACK, JETSON, NO_GPU, OLDER_DRIVER, RTX, TENSORRT


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Decide which TensorRT is installed, by version; None: not."""

    def install(tensorrt: str | None = None, rtx: str | None = None) -> None:
        for name, version in (("tensorrt", tensorrt), ("tensorrt_rtx_bindings", rtx), ("tensorrt_rtx", None)):
            module = None
            if version is not None:
                module = ModuleType(name)
                vars(module).update(__version__=version, Builder=object)
            monkeypatch.setitem(sys.modules, name, module)  # None: an import raises ModuleNotFoundError

    return install


def test_tensorrt_comes_before_rtx(installed: Callable[..., None]) -> None:
    installed(tensorrt="11.4.1", rtx="1.7.1.116")
    assert str(load_tensorrt()) == "TensorRT 11.4.1"
    assert str(load_tensorrt("rtx")) == "TensorRT-RTX 1.7.1.116"
    installed(rtx="1.7.1.116")
    assert load_tensorrt().flavour == "rtx"
    with pytest.raises(UsageError, match="--tensorrt trt: expected tensorrt or rtx"):
        load_tensorrt("trt")


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

    monkeypatch.setattr("importlib.import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_tensorrt()


def test_the_runtime_imports_no_tensorrt_and_no_cuda() -> None:
    code = (
        "import sys, ssd_edge.runtime.backends.tensorrt, ssd_edge.export.engine.cache; "
        "heavy = ('tensorrt', 'tensorrt_rtx_bindings', 'cuda', 'onnx', 'torch'); "
        "print(*[name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "\n")
