#!/bin/sh
# The gate: notebooks and library in sync and clean, style, notebooks as tests, then tests/. `all` adds the slow ones.
set -eu
cd "$(dirname "$0")/.."
python tools/sync.py
ruff check tests tools benchmarks
nbdev_test --n_workers 2 --skip_folder_re '^[_.]|tutorials'
if [ "${1:-}" = all ]; then python -m pytest -q -m 'not gpu and not net'; else python -m pytest -q; fi
