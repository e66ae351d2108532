#!/usr/bin/env bash
# Everything that only an NVIDIA GPU can show, in one run of limited time: benchmarks/README.md says how to use it.
#   benchmarks/gpu_evidence.sh --minutes 9 --out runs/evidence [--carry FOLDER]
set -eu
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m benchmarks.evidence.main "$@"
