#!/usr/bin/env bash
# Prints the table of benchmarks/gpu.py for this machine's GPU, by the environment that `make setup` makes where it is there.
set -euo pipefail
cd "$(dirname "$0")"
python=../.venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH="$PWD/..:${PYTHONPATH:-}" exec "$python" gpu.py "$@"
