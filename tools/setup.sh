#!/bin/sh
# Makes .venv and installs the package with one extra: setup.sh demo|lab|docs|dev. Needs Python 3.10 or newer with pip, and nothing else:
# Debian leaves ensurepip out of python3, so the environment is made without pip where there is none, and filled by the pip outside.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-python3}
"$PY" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "toa_nb needs Python 3.10 or newer; $PY is older. Try: make PY=python3.11 ..." >&2; exit 1; }
if [ ! -x .venv/bin/python ]; then
    "$PY" -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; "$PY" -m venv --without-pip .venv; }
fi
if .venv/bin/python -m pip --version >/dev/null 2>&1; then pip() { .venv/bin/python -m pip "$@"; }
else pip() { "$PY" -m pip --python .venv/bin/python "$@"; }; fi
echo "Installing toa_nb[$1] into .venv ..."
[ "$1" != dev ] || pip install --quiet torch==2.13.0
pip install --quiet --editable ".[$1]" --config-settings editable_mode=compat # else a script beside the checkout would take its folder for the package
if [ "$1" = dev ] && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then  # the panels are tested in a real browser
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null || true
    else echo "No Chromium found: tests of the panels in a browser will be skipped."; fi
fi
if [ "$1" = dev ] && [ -d .git ] && [ -z "${CI:-}" ]; then git config core.hooksPath .githooks; fi
