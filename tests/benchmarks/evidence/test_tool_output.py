"""What is read from pytest's, compute-sanitizer's and ncu's output."""

from pathlib import Path

from benchmarks.evidence import tool_output

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.runtime.backends.test_gpu" name="test_preprocess[1]" time="0.1" />
<testcase classname="tests.runtime.backends.test_gpu" name="test_nms"><failure message="assert 1 == 2">line 7</failure>
</testcase>
<testcase classname="tests.runtime.backends.test_gpu" name="test_close"><error message="at teardown">lost</error>
</testcase>
<testcase classname="tests.runtime.cuda.test_cuda_gpu" name="test_x[pycuda]"><skipped message="no PyCUDA">a</skipped>
</testcase>
</testsuite></testsuites>"""


def test_junit(tmp_path: Path) -> None:
    (tmp_path / "j.xml").write_text(JUNIT)
    assert tool_output.junit(tmp_path / "j.xml") == {
        "passed": 1,
        "failed": 2,
        "skipped": 1,
        "failures": [
            {"test": "test_gpu::test_nms", "message": "assert 1 == 2\nline 7"},
            {"test": "test_gpu::test_close", "message": "at teardown\nlost"},
        ],
        "skips": {"no PyCUDA": 1},
        "tests": {
            "test_gpu::test_preprocess[1]": "passed",
            "test_gpu::test_nms": "failed",
            "test_gpu::test_close": "failed",
            "test_cuda_gpu::test_x[pycuda]": "skipped",
        },
    }


def test_tests_that_were_killed() -> None:
    found = tool_output.outcomes(
        "collecting ... collected 4 items\n\n"
        "tests/runtime/backends/test_gpu.py::test_preprocess[a b] PASSED [ 25%]\n"
        "tests/runtime/backends/test_gpu.py::test_nms FAILED [ 50%]\n"
        "tests/runtime/backends/test_gpu.py::test_x[pycuda] SKIPPED (no PyCUDA) [ 75%]\n"
        "tests/runtime/backends/test_gpu.py::test_hangs "
    )
    assert [found[name] for name in ("passed", "failed", "skipped")] == [1, 1, 1]
    assert found["running_when_killed"] == "test_gpu::test_hangs"
    assert found["failures"] == [{"test": "test_gpu::test_nms", "message": "see the log"}]
    assert found["tests"]["test_gpu::test_preprocess[a b]"] == "passed"
    crash = "tests/runtime/backends/test_gpu.py::test_x[a b] Fatal Python error: Aborted\n"
    assert tool_output.outcomes(crash)["running_when_killed"] == "test_gpu::test_x[a b]"
    assert (
        tool_output.outcomes("tests/runtime/backends/test_gpu.py::test_a PASSED [ 9%]\n")["running_when_killed"] is None
    )


def test_outcomes_of_two_runs() -> None:
    one = {"passed": 1, "failed": 1, "skipped": 1, "failures": [{"test": "a"}], "skips": {"no GPU": 1, "x": 1}}
    one["tests"] = {"a": "failed", "b": "passed", "c": "skipped"}
    killed = {"passed": 1, "failed": 0, "skipped": 0, "failures": [], "running_when_killed": "e", "crashed": "by 6"}
    killed["tests"] = {"d": "passed"}
    both = {
        "passed": 2,
        "failed": 1,
        "skipped": 1,
        "failures": [{"test": "a"}],
        "skips": {"no GPU": 1, "x": 1},
        "tests": {"a": "failed", "b": "passed", "c": "skipped", "d": "passed"},
        "running_when_killed": "e",
        "crashed": "by 6",
    }
    assert tool_output.added(one, killed) == both
    assert tool_output.added(killed, one) == both
    assert tool_output.added(killed, killed)["crashed"] == "by 6; by 6"
    assert tool_output.added(one, one)["skips"] == {"no GPU": 2, "x": 2}


def test_metrics_have_their_public_names() -> None:
    """Those of NVIDIA's documentation of Nsight Compute; one unknown name and ncu profiles nothing."""
    assert set(tool_output.METRICS) == {
        "gpu__time_duration.sum",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "lts__throughput.avg.pct_of_peak_sustained_elapsed",
        "sm__throughput.avg.pct_of_peak_sustained_elapsed",
        "sm__warps_active.avg.pct_of_peak_sustained_active",
        "launch__registers_per_thread",
    }


def test_sanitizer() -> None:
    assert tool_output.sanitizer("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == {
        "summary": "ERROR SUMMARY: 0 errors",
        "clean": True,
        "messages": ["========= COMPUTE-SANITIZER", "========= ERROR SUMMARY: 0 errors"],
    }
    hazards = "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)"
    found = tool_output.sanitizer(hazards)
    assert found is not None
    assert found["clean"] is False
    assert tool_output.sanitizer("========= COMPUTE-SANITIZER\nkilled") is None


LONG = """==PROF== Connected to process 7
"ID","Process ID","Kernel Name","Block Size","Grid Size","Metric Name","Metric Unit","Metric Value"
"0","7","nms_count(const float *, int)","(512, 1, 1)","(16, 1, 1)","gpu__time_duration.sum","ns","4,512"
"0","7","nms_count(const float *, int)","(512, 1, 1)","(16, 1, 1)","launch__registers_per_thread","register/thread","32"
"1","7","nms_merge","(512, 1, 1)","(1, 1, 1)","gpu__time_duration.sum","ns","n/a"
==PROF== Disconnected
"""
WIDE = """"ID","Kernel Name","Block Size","Grid Size","gpu__time_duration.sum","launch__registers_per_thread"
"","","","","ns","register/thread"
"0","nms_count(const float *, int)","(512, 1, 1)","(16, 1, 1)","4512","32"
"""


def test_ncu() -> None:
    count = {
        "kernel": "nms_count",
        "grid": "(16, 1, 1)",
        "block": "(512, 1, 1)",
        "duration_ns": 4512.0,
        "registers_per_thread": 32.0,
    }
    merge = {"kernel": "nms_merge", "grid": "(1, 1, 1)", "block": "(512, 1, 1)", "duration_ns": "n/a"}
    assert tool_output.ncu_kernels(LONG) == [count, merge]
    assert tool_output.ncu_kernels(WIDE) == [count]
    assert tool_output.ncu_kernels("==ERROR== refused\n") == []
