"""Put what travelled along to use: check it, join what was split, install the wheels. Standard library only.

    python -m benchmarks.evidence.carry FOLDER --site SITE -o FILE.json

`FOLDER` is one package of `gpu_evidence.sh --prepare`. Nothing that the machine has is replaced, except what is older
than the manifest says that ssd-edge needs; torch, torchvision and numpy never are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.evidence.absent import canonical
from benchmarks.evidence.have import NEVER_REPLACED, installed, stands_in

FORMAT = 2  # of a package


class CarryError(Exception):
    """What travelled is damaged or incomplete."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The package's manifest.

    Raises:
        CarryError: it is not there or no JSON, that of the folder around the packages, or of another format.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if packages := manifest.get("packages"):
            names = ", ".join(str(folder / each["folder"]) for each in packages)
            raise CarryError(f"{folder} is not a package but holds them; give one of {names}")
    except (OSError, ValueError, AttributeError) as error:
        raise CarryError(f"{folder} is no package of --prepare: {error}") from error
    if manifest.get("format") != FORMAT:
        raise CarryError(f"{folder}: its format is {manifest.get('format')}, expected {FORMAT}; run --prepare again")
    return manifest


def joined(folder: Path, wheel: dict[str, Any], into: Path) -> Path:
    """The wheel in one piece, checked, as pip takes it.

    Raises:
        CarryError: a part is missing, the SHA-256 differs, or this Python cannot decompress.
    """
    try:
        import lzma
    except ImportError as error:  # Python was built without it
        raise CarryError(f"{wheel['file']} is compressed by xz, and this Python has no lzma: {error}") from error
    packed = bytearray()
    for name in wheel["parts"] or [f"{wheel['file']}.xz"]:
        part = folder / "wheels" / name
        if not part.is_file():
            raise CarryError(f"{part} is missing")
        packed += part.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != wheel["sha256"]:
        raise CarryError(f"{wheel['file']}: the SHA-256 is {digest}, not {wheel['sha256']} as when packed")
    whole: Path = into / wheel["file"]
    whole.write_bytes(lzma.decompress(packed))
    return whole


def why_not(wheel: dict[str, Any], there: dict[str, str]) -> str | None:
    """Why a carried wheel is not to be installed where there are these packages; None if it is."""
    name = canonical(wheel["name"])
    same = stands_in(name, there)
    if same is None:
        return None
    too_old = wheel["at_least"] is not None and is_older(there[same], wheel["at_least"])
    if (too_old or there[same] == wheel["replaces"]) and name not in NEVER_REPLACED:
        return None
    return f"{same} {there[same]} is here already"


def is_older(version: str, than: str) -> bool:
    """Whether a version is older by its numbers; what follows them, such as `rc1`, does not count."""
    one, other = (_numbers(each) for each in (version, than))
    length = max(len(one), len(other))
    return one + [0] * (length - len(one)) < other + [0] * (length - len(other))


def _numbers(version: str) -> list[int]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(number) for number in found[0].split(".")] if found else []


def install(folder: Path, site: Path, there: dict[str, str], pip_options: list[str], work: Path) -> dict[str, Any]:
    """Install the wheels of a package that the machine lacks. One that fails does not keep the others out.

    Args:
        there: canonical names and versions of what the machine has.
        pip_options: such as the platform, for a trial on another one.
        work: for the wheels in one piece.

    Raises:
        CarryError: the folder is no package.
    """
    manifest = read_manifest(folder)
    wheels, left, failed = dict[str, Path](), dict[str, str](), dict[str, str]()
    for wheel in manifest["wheels"]:
        name = f"{wheel['name']} {wheel['version']}"
        try:
            if reason := why_not(wheel, there):
                left[name] = reason
            else:
                wheels[name] = joined(folder, wheel, work)
        except CarryError as error:
            failed[name] = str(error)
    site.mkdir(parents=True, exist_ok=True)
    failed |= pip_install(wheels, site, pip_options)
    samples = {kind: folder / manifest[kind] for kind in ("images", "video") if manifest[kind]}
    failed |= {kind: f"{path} is missing" for kind, path in samples.items() if not path.exists()}
    return {
        "folder": str(folder.resolve()),
        "installed": [name for name in wheels if name not in failed],
        "not_installed": left,
        "failed": failed,
        **{kind: str(path.resolve()) for kind, path in samples.items() if kind not in failed},
    }


def pip_install(wheels: dict[str, Path], site: Path, options: list[str]) -> dict[str, str]:
    """Install all at once; if pip refuses that, one by one. What could not be installed, with pip's message."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--target", str(site), *options]
    ended = subprocess.run([*command, *map(str, wheels.values())], capture_output=True, text=True) if wheels else None
    if ended is None or ended.returncode == 0:
        return {}
    if len(wheels) == 1:
        return {name: f"pip: {(ended.stderr or ended.stdout).strip()}" for name in wheels}
    return {name: reason for one in wheels.items() for name, reason in pip_install(dict([one]), site, options).items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Check and install what travelled along.")
    parser.add_argument("folder", type=Path, help="a package of gpu_evidence.sh --prepare")
    parser.add_argument("--site", type=Path, required=True, help="where to install; for PYTHONPATH")
    parser.add_argument("--work", type=Path, required=True, help="an existing folder for temporary files")
    parser.add_argument("--trial", action="store_true", help="install for the platform that it was packed for")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        options = [*read_manifest(args.folder)["pip_options"], "--ignore-requires-python"] if args.trial else []
        found = install(args.folder, args.site, {} if args.trial else installed(), options, args.work)
    except CarryError as error:
        parser.exit(1, f"{error}\n")
    text = json.dumps(found, indent=2, ensure_ascii=False)
    args.output.write_text(text + "\n", encoding="utf-8")
    print(text)
    if found["failed"]:
        parser.exit(1, "".join(f"{name}: {reason}\n" for name, reason in found["failed"].items()))


if __name__ == "__main__":
    main()
