#!/bin/sh
# Tests and measurements for a machine with an NVIDIA GPU, without installing: sh benchmarks/gpu.sh [FOLDER for results]
set -u
cd "$(dirname "$0")/.."
out=${1:-${OUT:-.}}
python=${PYTHON:-python3}
PYTHONPATH=src
export PYTHONPATH
"$python" -m pytest -q -p no:cacheprovider tests/test_graph.py tests/test_grouped.py tests/test_grouped_triton.py
"$python" benchmarks/gpu.py --json "$out/gpu.json"
"$python" -m flatnext bench --device cuda --batch-size 128 --parts training inference memory --json "$out/bench.json"
