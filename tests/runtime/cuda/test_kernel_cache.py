"""Kernels are compiled by the real NVRTC, which needs no GPU, and once only; a cache that is no use does no harm."""

import re
from pathlib import Path

import pytest

from ssd_edge.errors import MissingDependencyError
from ssd_edge.files import kernel_cache_folder
from ssd_edge.runtime.cuda import kernel_cache
from ssd_edge.runtime.cuda.errors import REFUSED_KERNELS, CudaError, cuda_failure
from ssd_edge.runtime.cuda.kernel_cache import compile_kernels, is_machine_code

ROOT = Path(__file__).resolve().parents[3]
SOURCE = 'extern "C" __global__ void fma_or_not(float* x) { x[0] = x[1] * x[2] + x[3]; }'


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    try:
        kernel_cache.Nvrtc()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("SSD_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def compiles_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise AssertionError("compiled again")

    monkeypatch.setattr(kernel_cache.Nvrtc, "compile", fail)


def test_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD_EDGE_CACHE", "/data/cache")
    assert kernel_cache_folder() == Path("/data/cache/kernels")
    monkeypatch.delenv("SSD_EDGE_CACHE")
    monkeypatch.setenv("HOME", "/home/me")
    assert kernel_cache_folder() == Path("/home/me/.cache/ssd-edge/kernels")


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    code = compile_kernels(SOURCE, "8.7")
    assert is_machine_code(code)
    assert b"fma_or_not" in code
    (kept,) = cache.iterdir()
    assert re.fullmatch(r"sm_87-nvrtc\d+\.\d+-[0-9a-f]{32}\.bin", kept.name)
    compiles_no_more(monkeypatch)
    assert compile_kernels(SOURCE, "8.7") == code


def test_another_gpu_source_option_or_nvrtc_is_another_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    compile_kernels(SOURCE, "8.7")
    compile_kernels(SOURCE, "9.0")
    compile_kernels(SOURCE + "\n", "8.7")
    compile_kernels(SOURCE, "8.7", ["--std=c++17"])
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcVersion", lambda: (0, 99, 0))
    compile_kernels(SOURCE, "8.7")
    assert len(list(cache.glob("sm_87-nvrtc99.0-*"))) == 1


@pytest.mark.parametrize("harm", [b"", b"\x00" * 64, None])
def test_a_damaged_file_is_compiled_again(cache: Path, harm: bytes | None) -> None:
    code = compile_kernels(SOURCE, "8.7")
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] if harm is None else harm)
    assert compile_kernels(SOURCE, "8.7") == code
    assert kept.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert is_machine_code(compile_kernels(SOURCE, "8.7"))


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kernel_cache, "kernel_cache_folder", no_home)
    assert is_machine_code(compile_kernels(SOURCE, "8.7"))


def test_multiplication_and_addition_are_not_fused() -> None:
    """PTX shows what machine code hides."""
    newer = "99.0"
    assert b"fma.rn" not in compile_kernels(SOURCE, newer)
    assert b"fma.rn" in compile_kernels(SOURCE, newer, ["--std=c++17"])


def test_a_gpu_newer_than_nvrtc_gets_ptx(cache: Path) -> None:
    code = compile_kernels(SOURCE, "99.0")
    assert not is_machine_code(code)
    assert b".visible .entry fma_or_not" in code
    (kept,) = cache.iterdir()
    assert kept.name.startswith("compute_")


def test_a_gpu_older_than_nvrtc_is_refused() -> None:
    with pytest.raises(CudaError, match=r"compiles for compute capability \d+\.\d and newer, and this GPU has 2\.0"):
        compile_kernels(SOURCE, "2.0")


@pytest.mark.parametrize("status", REFUSED_KERNELS)
def test_a_driver_that_refuses_kernels(status: str) -> None:
    # By cuda-core with the name of the status, by PyCUDA in the driver's words.
    for problem in (status, f"{REFUSED_KERNELS[status]} - "):
        failure = cuda_failure("cuModuleLoadDataEx", problem)
        assert not failure.fatal
        assert "NVRTC is of a newer CUDA than the driver: install" in str(failure)
        assert "CUDA 12.6 (JetPack 6): pip install 'nvidia-cuda-nvrtc-cu12==12.6.*'" in str(failure)


@pytest.mark.parametrize(("machine", "newest"), [("aarch64", "12.6.85"), ("x86_64", "12.9.86")])
def test_jetpack_6_gets_the_nvrtc_of_its_driver(machine: str, newest: str) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    parsed = [requirements.Requirement(line) for line in extras["cuda12"]]
    (nvrtc,) = [
        requirement
        for requirement in parsed
        if requirement.name == "nvidia-cuda-nvrtc-cu12" and requirement.marker.evaluate({"platform_machine": machine})
    ]
    assert max(nvrtc.specifier.filter(["12.5.82", "12.6.68", "12.6.85", "12.8.93", "12.9.86"])) == newest


def test_nvrtcs_log_is_shown(cache: Path) -> None:
    with pytest.raises(
        CudaError, match=r"(?s)does not compile the kernels.*ssd_edge\.cu\(2\): error.*nonsense"
    ) as error:
        compile_kernels(SOURCE + "\nnonsense();", "8.7")
    assert not error.value.fatal
    assert not cache.exists()


def test_without_nvrtc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise RuntimeError("Failure finding libnvrtc.so")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(
        MissingDependencyError, match=r"needs NVRTC.*Failure finding libnvrtc.*pip install '\.\[cuda13\]'"
    ):
        compile_kernels(SOURCE, "8.7")
