"""Checks of the machine itself: Python, processor, memory, disk, JetPack."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path

from ssd_edge.cpus import usable_cpus
from ssd_edge.files import CACHE_VARIABLE, engine_cache_folder
from ssd_edge.machine import describe_machine
from ssd_edge.runtime.doctor.finding import NONE, OK, PROBLEM, Finding
from ssd_edge.runtime.host.fixes import jetpack_fix
from ssd_edge.runtime.host.kind import OLDEST_JETPACK, read_host, read_text

GIB = 1 << 30
LEAST_MEMORY_GIB = 0.5  # a warning, before the kernel ends what streams
LEAST_DISK_GIB = 1.0  # a few engines and a recording
FAST_INT8 = {  # instructions, as /proc/cpuinfo has them, that multiply bytes faster than floats
    "avx_vnni": "VNNI",
    "avx512_vnni": "VNNI",
    "amx_int8": "AMX",
    "asimddp": "dot product",
    "i8mm": "int8 matrices",
}


def python() -> Finding:
    """Version, and whether this is a virtual environment."""
    version, virtual = platform.python_version(), sys.prefix != sys.base_prefix
    facts = {"version": version, "virtual_environment": virtual}
    return Finding(OK, version + ", virtual environment" * virtual, facts)


def processor(root: Path = Path("/")) -> Finding:
    """Cores that this process may use, and how fast int8 is."""
    machine = describe_machine(root)
    name, cores = str(machine["processor"]), usable_cpus(root)
    instructions = str(machine.get("instructions", "")).split()
    int8 = list(dict.fromkeys(FAST_INT8[flag] for flag in instructions if flag in FAST_INT8))
    facts = {
        "name": name,
        "architecture": platform.machine(),
        "cores": cores,
        "instructions": instructions,
        "fast_int8": bool(int8),
    }
    speed = f"fast int8 ({', '.join(int8)})" if int8 else "int8 hardly faster than fp32 (no VNNI or dot product)"
    return Finding(OK, f"{name}, {cores} core{'s' * (cores != 1)}, {speed}", facts)


def memory(root: Path = Path("/")) -> Finding:
    """What is left of it."""
    kib = dict(re.findall(r"^(\w+): +(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE))
    total, free = (int(kib[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    facts = {"total_bytes": total, "free_bytes": free}
    summary = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LEAST_MEMORY_GIB * GIB:
        return Finding(PROBLEM, summary, facts, "streams that are not killed", "close other programs, or add swap")
    return Finding(OK, summary, facts)


def disk() -> Finding:
    """Room in the current folder and in the one that engines are kept in, which has to be writable."""
    cache = engine_cache_folder()
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    here_bytes, cache_bytes = (shutil.disk_usage(folder).free for folder in (Path.cwd(), existing))
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    facts = {
        "folder_free_bytes": here_bytes,
        "cache_folder": str(cache),
        "cache_free_bytes": cache_bytes,
        "cache_writable": writable,
    }
    summary = f"{here_bytes / GIB:.1f} GiB free here, {cache_bytes / GIB:.1f} GiB for engines"
    other_folder = f"choose a folder that has room and can be written to: export {CACHE_VARIABLE}=FOLDER"
    if not writable:
        return Finding(PROBLEM, f"{existing} cannot be written to", facts, "engines that are kept", other_folder)
    if min(here_bytes, cache_bytes) < LEAST_DISK_GIB * GIB:
        fix = f"free some; for engines {other_folder}"
        return Finding(PROBLEM, summary, facts, "room for engines and recordings", fix)
    return Finding(OK, summary, facts)


def jetpack(root: Path = Path("/")) -> Finding:
    """The software of a Jetson."""
    host = read_host(root)
    if not host.jetson:
        return Finding(NONE, "not a Jetson")
    facts = {"jetpack": host.jetpack, "l4t": host.l4t, "board": host.board}
    versions = f"{host.jetpack or 'unknown version'} (Jetson Linux {host.l4t or 'unknown'})"
    summary = f"{versions}, {host.board or 'unknown board'}"
    if host.jetpack_too_old:
        oldest = ".".join(map(str, OLDEST_JETPACK))
        return Finding(
            PROBLEM,
            f"{summary}: too old, {oldest} or later is needed",
            facts,
            "TensorRT 10.3 or later: models on the GPU",
            jetpack_fix(),
        )
    return Finding(OK, summary, facts)
