# make test | test-all | demo | lab | docs. Each does its own set-up in .venv; PY=python3.12 chooses another interpreter.
PY ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE ?= 1

help:
	@echo 'make demo       run seven methods on real local models (SMALL=1: fewer prompts and samples), write figure and data to runs/demo'
	@echo 'make lab        open JupyterLab on the first tutorial'
	@echo 'make test       everything that CI runs'
	@echo 'make test-all   the slow tests too'
	@echo 'make docs       the documentation site, into _docs'
	@echo 'make export     notebooks -> toa_nb/*.py and README.md;  make bench  the benchmarks;  make clean  remove .venv'

.venv/.%: pyproject.toml tools/setup.sh
	@PY=$(PY) sh tools/setup.sh $*
	@touch $@

demo: .venv/.demo
	$(BIN)/python tools/demo.py $(if $(SMALL),--small)

lab: .venv/.lab .venv/.demo
	cd nbs && ../$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) tutorials/01_first_run.ipynb

test: .venv/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/check.sh

test-all: .venv/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/check.sh all

export: .venv/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" python tools/sync.py --write

docs: .venv/.docs
	$(BIN)/python tools/docs.py

bench: .venv/.dev
	for b in benchmarks/*.py; do $(BIN)/python $$b || exit 1; done

clean:
	rm -rf .venv

.PHONY: help demo lab test test-all export docs bench clean
