# make demo   the whole path in minutes: draws a data set, trains, evaluates, writes report.html
# make benchmark   all benchmarks side by side, half an hour on two idle cores; writes docs/performance.md
# make docs   the documentation as a site: build/docs/index.html        make linkcheck   its links to other sites
# make test   the tests        make lint   lint, format, types, floors        make setup   only the environment

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Two test processes with one thread each beat one process with two.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo benchmark test lint format docs linkcheck clean

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); onestage needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# --no-compile: two thirds of the time; Python compiles what is used when it is used
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
# trackers asks for opencv-python, which would take the place of opencv-python-headless and needs a desktop's libraries
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps 'trackers>=2.5,<3'
	@touch $@

demo: setup
	$(BIN)/onestage demo

benchmark: setup
	$(BIN)/python benchmarks/performance.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# -W: a link or a name that leads nowhere is an error; -E: everything anew, so that each warning comes each time
docs: setup
	$(BIN)/python -m sphinx -W --keep-going -E -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

linkcheck: setup
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck -d build/doctrees docs build/linkcheck

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build
