#!/bin/sh
# Tests and measurements for a machine with an NVIDIA GPU, without installing.
#
#     sh benchmarks/gpu.sh FOLDER [PART...]
#
# The parts are tests, steps, bench and memory, by default all of them. Each leaves its figures in FOLDER when it ends,
# and can be run by itself.
set -u
cd "$(dirname "$0")/.."
out=${1:?give the folder for the results}
shift
parts=${*:-tests steps bench memory}
for part in $parts; do
    case $part in
    tests | steps | bench | memory) ;;
    *) echo "gpu.sh: no part $part: choose tests, steps, bench, memory" >&2 && exit 2 ;;
    esac
done
mkdir -p "$out"
python=${PYTHON:-python3}
PYTHONPATH=src
export PYTHONPATH
failed=0
for part in $parts; do
    case $part in
    tests)
        # The rest of these files does not need a GPU.
        "$python" -c 'import xdist' 2> /dev/null && many='-n 8' || many=
        # shellcheck disable=SC2086  # two words or none
        "$python" -m pytest -q -p no:cacheprovider -p no:benchmark $many \
            -k 'on_a_gpu or a_gpu_sees or many_chunks or (torchs and bfloat16)' \
            tests/data/test_loader.py tests/training/test_graph.py tests/ops/test_cuda.py tests/ops/test_triton.py
        ;;
    steps) "$python" benchmarks/gpu.py --json "$out/gpu.json" ;;
    bench)
        "$python" -m flatnext bench --device cuda --batch-size 128 --parts training inference --json "$out/bench.json"
        ;;
    memory) "$python" -m flatnext bench --device cuda --batch-size 64 --parts memory --json "$out/memory.json" ;;
    esac || failed=1
done
exit $failed
