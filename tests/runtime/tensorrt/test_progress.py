"""The progress of a build."""

from __future__ import annotations

from ssd_edge.runtime.tensorrt.progress import Phases


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
