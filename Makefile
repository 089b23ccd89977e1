PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LOWEST := .venv-lowest

# The versions that setup installs; LOCK= (nothing) takes the newest that pyproject.toml allows, as .ci/run does.
LOCK ?= requirements-dev.lock

# Two test processes with one thread each beat one process with two.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test lint format docs linkcheck benchmark lock lowest clean

help:  ## this list
	@sed -n 's/^\([a-z]*\): .*## /\1#/p' $(MAKEFILE_LIST) | awk -F'#' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## only the environment .venv, with the versions of requirements-dev.lock

$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); onestage needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# --no-compile: two thirds of the time; Python compiles what is used when it is used
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(LOCK:%=--constraint %) --editable '.[dev]'
# trackers asks for opencv-python, which would take the place of opencv-python-headless and needs a desktop's libraries
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(LOCK:%=--constraint %) --no-deps 'trackers>=2.5,<3'
	@touch $@

demo: setup  ## the whole path in minutes: draws a data set, trains, evaluates, writes report.html
	$(BIN)/onestage demo

quick: setup  ## tests of what was touched since main (BASE=... for another base), mostly under a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS) $$($(BIN)/python .ci/touched.py $(BASE))

test: setup  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup  ## lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: setup  ## all benchmarks side by side, half an hour on two idle cores; writes docs/performance.md
	$(BIN)/python benchmarks/performance.py

lock: setup  ## upgrade .venv to the newest versions allowed, and write them into requirements-dev.lock
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --upgrade --no-deps 'trackers>=2.5,<3'
	{ echo '# What `make setup` installs. Written by `make lock`.'; \
		$(BIN)/python -m pip freeze --exclude-editable --exclude onestage; } > requirements-dev.lock
	@touch $(STAMP)

lowest:  ## the lowest versions that pyproject.toml allows, without extras, in .venv-lowest: imports, help, train, predict
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	sed -n '/^dependencies/,/^]/s/^ *"\([^>]*\)>=\([^,"]*\).*/\1==\2/p' pyproject.toml > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(LOWEST)/lowest.txt .
	$(LOWEST)/bin/python -I .ci/first_steps.py

# -W: a link or a name that leads nowhere is an error; -E: everything anew, so that each warning comes each time
docs: setup  ## the documentation as a site: build/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going -E -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

linkcheck: setup  ## the links of the documentation to other sites, which needs a network
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck -d build/doctrees docs build/linkcheck

clean:  ## remove the environments and what tools remember
	rm -rf $(VENV) $(LOWEST) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build
