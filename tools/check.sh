#!/bin/sh
# The gate: notebooks and library in sync and clean, style, notebooks as tests, then tests/. `all` adds the slow ones.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1  # two workers share two cores
tests() { python -m pytest -q -n 2 "$@"; }
python tools/sync.py
ruff check tests tools benchmarks
nbdev_test --n_workers 2 --skip_folder_re '^[_.]|tutorials'
if [ "${1:-}" = all ]; then tests -m 'not gpu and not net'; else tests; fi
