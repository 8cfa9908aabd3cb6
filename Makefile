# make demo    install, then a whole federated study on artificial hospitals; ends with its report
# make quick   install with the development tools, then the tests that need no language model
# make test    the same, then the default test suite, on all cores
# make check   everything that must hold before a change is merged
# make help    all targets

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

# Which demo: the largest that ends within DEMO_MINUTES on this machine, or S, M or L.
SIZE := $(if $(filter-out 0,$(FAST)),S,auto)
DEMO_MINUTES := 10
DEMO_STUDIES := examples/demo-s.toml examples/demo-m.toml examples/demo-l.toml
CHOOSE_DEMO := $(BIN)/fedmedlora study choose --minutes $(DEMO_MINUTES) $(DEMO_STUDIES)
# What SIZE makes of it; `auto` is told by measuring.
DEMO_auto = $$($(CHOOSE_DEMO))
DEMO_S := examples/demo-s.toml
DEMO_M := examples/demo-m.toml
DEMO_L := examples/demo-l.toml

.PHONY: help demo quick test test-all check format format-check lint types layers docs clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# //p' Makefile | head -n 5
	@echo "Also: test-all format format-check lint types layers docs clean"
	@echo "Settings: PYTHON=python3.12 (which Python makes the environment), VENV=.venv,"
	@echo "          SIZE=auto|S|M|L (demo; auto: the largest that ends within 10 minutes here; FAST=1 is SIZE=S)"

# Installing. A stamp in the environment says which dependencies it was last filled with, so that
# nothing is installed twice. The development extra holds everything that the models extra holds.

define make_environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
    { echo "fedmedlora needs Python 3.11 or newer, and '$(PYTHON)' is not. Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
@$(BIN)/python -m pip --version >/dev/null 2>&1 || \
    { echo "Creating a virtual environment in $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
endef

$(VENV)/.has-models: pyproject.toml constraints.txt
	$(make_environment)
	@echo "Installing fedmedlora with PyTorch and transformers into $(VENV). This takes some minutes, once ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[models]'
	@touch $@

$(VENV)/.has-dev: pyproject.toml constraints.txt
	$(make_environment)
	@echo "Installing fedmedlora with its development tools into $(VENV). This takes some minutes, once ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.has-models $@

# Using it.

# Linux makes what a training step allocates anew of pages of 2 MB then, which takes far less time.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: $(VENV)/.has-models
	$(if $(DEMO_$(SIZE)),,$(error SIZE=$(SIZE): expected auto, S, M or L))
	@$(BIN)/fedmedlora model fetch
	@rm -rf demo/first-note
	@page=$$($(BIN)/fedmedlora extract examples/note.txt --to html --out demo/first-note) || exit; \
	printf '%s\n' "A made-up note with its entities marked, to be opened in a browser:" "$$page"
	@echo "Writing five artificial hospitals into demo/hospitals ..."
	@$(BIN)/fedmedlora corpus synthesize --out demo/hospitals
	@study=$(DEMO_$(SIZE)) || exit; \
	echo "Running $$study"; \
	lines=$$($(BIN)/fedmedlora study run "$$study" --out demo/runs) || exit; \
	run=$$(tail -n 1 <<< "$$lines"); \
	test -f "$$run/report.html" || { echo "$$run: the study left no report.html" >&2; exit 1; }; \
	printf '%s\n' "$$lines" "The report, to be opened in a browser:" "$$run/report.html"

# Checking it.

# One process of tests a core, one tensor thread each (tests/conftest.py). A process begins with a
# share of neighbouring tests, which use the same fixtures, and takes over from slower ones at its
# end.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The text half: what tests/conftest.py finds to load a tensor library is skipped.
QUICK := $(addprefix tests/,core corpora prompts runs evaluation report cli docs)

quick: $(VENV)/.has-dev
	@$(PYTEST) --text-only --hypothesis-profile=quick $(QUICK)

test: $(VENV)/.has-dev
	@$(PYTEST)

test-all: $(VENV)/.has-dev
	@$(PYTEST) -m "" -rs --hypothesis-profile=explore

check: format-check lint types layers docs test

format: $(VENV)/.has-dev
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

format-check: $(VENV)/.has-dev
	@$(BIN)/ruff format --check .

lint: $(VENV)/.has-dev
	@$(BIN)/ruff check .

types: $(VENV)/.has-dev
	@$(BIN)/mypy

layers: $(VENV)/.has-dev
	@$(BIN)/lint-imports

docs: $(VENV)/.has-dev
	@$(BIN)/python -m pytest --quiet tests/docs

clean:
	@rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
