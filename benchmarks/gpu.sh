#!/usr/bin/env bash
# Measures Cogworks beside diffusers on the first CUDA device, in about ten minutes on an H100 or H200:
#   make test                 # once, sets up .venv
#   benchmarks/gpu.sh         # checks first that both compute the same, then writes benchmarks/results/speed-gpu-*.json
# PYTHON=... chooses another Python. A card with less than 80 GB leaves out what does not fit, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no CUDA device"'
"$python" -m pytest -q -p no:xdist -m gpu tests/benchmarks
"$python" benchmarks/run.py --only gpu "$@"
"$python" docs/refresh.py docs/performance.md README.md
