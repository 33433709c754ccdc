#!/bin/sh
# Trains recipes for a limited time and keeps what is needed of them; the same command goes on where it was stopped.
#
#     sh benchmarks/full_length.sh SECONDS STUDY RESULTS RECIPE... [-- FLAG...]
#
# for instance: sh benchmarks/full_length.sh 540 /tmp/full results sgd amp best -- --validation 0 --data-dir /tmp/data
# STUDY holds the runs and must survive between calls. RESULTS gets a weights file of 10 MB with its model card for each
# finished run of seed 0, index.json beside them, and one archive of configs, metrics, results and environments of all
# runs, finished or not. The status is that of the study, but 0 where its time was up.
#
# Where STUDY does not survive, RESULTS gets with KEEP=1 the unfinished run's checkpoint too, in pieces of 15 MiB
# (three; an average of the weights and a validation split are one more each), and RESTORE=FOLDER, a full path, with the
# pieces and runs.tar.gz puts it back. Give another RESULTS then. With one unfinished run and two finished ones of seed 0
# these are at least 9 files: where fewer are taken back, give fewer recipes a call.
set -u
cd "$(dirname "$0")/.."
seconds=$1 study=$2 results=$3
shift 3
recipes=
while [ $# -gt 0 ] && [ "$1" != -- ]; do recipes="$recipes $1"; shift; done
[ $# -gt 0 ] && shift
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
mkdir -p "$results" "$study"
if [ -n "${RESTORE:-}" ] && [ ! -e "$study/study.json" ]; then
    part=$study/.restored  # whole, or not at all
    rm -rf "$part" && mkdir "$part" && tar xzf "$RESTORE/runs.tar.gz" -C "$part" &&
        cat "$RESTORE"/checkpoint.tar.* > "$study/.checkpoint.tar" && tar xf "$study/.checkpoint.tar" -C "$part" &&
        mv "$part/study.json" "$study/.study.json" && cp -R "$part/." "$study" && rm -rf "$part" "$study/.checkpoint.tar" &&
        mv "$study/.study.json" "$study/study.json" || exit 1
fi
# shellcheck disable=SC2086  # a list of words
timeout --foreground -s TERM "$seconds" "$python" -m flatnext study --recipes $recipes --seeds "${SEEDS:-1}" --output "$study" "$@"
status=$?
data=.data
while [ $# -gt 0 ]; do [ "$1" = --data-dir ] && data=$2; shift; done
for recipe in $recipes; do
    [ -f "$study/$recipe/seed-0/result.json" ] || continue
    "$python" -m flatnext pack "$study/$recipe/seed-0" --name "resnext29-cifar10-$(echo "$recipe" | tr -d '+-')" \
        --output "$results" --data-dir "$data" --overwrite
done
(cd "$study" && find . -name '*.json' -o -name '*.jsonl' -o -name 'report.*' | tar czf - -T -) > "$results/runs.tar.gz"
if [ -n "${KEEP:-}" ]; then
    (cd "$study" && "$python" -c '
from pathlib import Path
from flatnext.training.checkpoint import read_metadata
for last in Path().glob("*/*/last.safetensors"):
    state = last.parent / (read_metadata(last) or {}).get("state", "")  # a finished run has none
    if state.is_file():
        print(*filter(Path.is_file, (state, last, last.with_name("best.safetensors"))), sep="\n")
' > .checkpoint.list) || exit 1
    rm -f "$results"/checkpoint.tar.*
    (cd "$study" && tar cf - -T .checkpoint.list) | split -b 15m - "$results/checkpoint.tar."
fi
[ "$status" = 124 ] && status=0  # its time was up
exit "$status"
