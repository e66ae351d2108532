"""Which source evidence is of."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.evidence import source
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE
from ssd_edge.version import __version__
from tests.benchmarks.evidence.script import ROOT


def test_the_source_is_named(tmp_path: Path) -> None:
    found = source.source(ROOT)
    assert found["version"] == __version__
    assert found["kernels_sha256"] == hashlib.sha256(KERNEL_SOURCE.encode()).hexdigest()
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        assert found["commit"] == said.strip()
    assert source.commit(tmp_path) is None


@pytest.mark.parametrize("way", ["branch", "packed", "detached", "linked"])
def test_the_commit_of_a_repository(way: str, tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git")
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    root = tmp_path / "a"

    def run_git(*arguments: str) -> str:
        options = ["-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            [git, *options, *arguments], capture_output=True, text=True, check=True, env=quiet, timeout=60
        ).stdout.strip()

    root.mkdir()
    run_git("init", "-q", "-b", "main")
    assert source.commit(root) is None  # there is none yet
    run_git("commit", "-q", "--allow-empty", "-m", "one")
    expected, there = run_git("rev-parse", "HEAD"), root
    if way == "packed":
        run_git("pack-refs", "--all")
    elif way == "detached":
        run_git("checkout", "-q", "--detach")
    elif way == "linked":
        there = tmp_path / "b"
        run_git("worktree", "add", "-q", "-b", "other", str(there))
    assert source.commit(there) == expected
