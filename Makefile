# Every target works in a fresh clone: it makes its virtual environment with Python's own
# `venv` and pip, from what pyproject.toml says, once; and again when that file changes.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
OUT ?= demo-output
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A file's tests share programs, so they go to one worker. A worker that dies ends the
# run: one that replaces it can die again, or leave the other waiting for ever.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment must not overlap.
.NOTPARALLEL:
.SUFFIXES:
# No other environment may leak into ours.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help demo test pytest pytest32 pytest64 lint format bench docs notebooks clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-demo  ## Deblur a photograph and learn its blur; pictures in $(OUT)
	@$(BIN)/python notebooks/quickstart.py --out $(OUT) $(ARGS)

test: lint pytest  ## Lint, then every test, in 32- and 64-bit mode

# The short run first, so that the closing line is that of the whole suite.
pytest: pytest32 pytest64  ## The tests alone

pytest32: $(VENV)/.stamp-tests
	@echo "== pytest, LSQFLOW_X64=0, tests marked float32"
	@LSQFLOW_X64=0 $(PYTEST) -m float32 $(ARGS)

pytest64: $(VENV)/.stamp-tests
	@echo "== pytest, LSQFLOW_X64=1, all tests"
	@LSQFLOW_X64=1 $(PYTEST) $(ARGS)

lint: $(VENV)/.stamp-lint  ## ruff (check and format) and pyright
	@echo "== ruff check"
	@$(BIN)/ruff check .
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "== pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.stamp-lint  ## Rewrite the files the way `make lint` wants them
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(VENV)/.stamp-bench  ## Speed beside lineax, matfree and SciPy
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.stamp-docs  ## The website, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

notebooks: $(VENV)/.stamp-notebooks  ## Run every notebook, reduced
	@$(BIN)/python notebooks/run.py --reduced $(ARGS)

clean:  ## Remove environments, caches and everything that was built
	rm -rf $(VENV) .venv-newer build dist site $(OUT) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip learnt dependency groups in 25.1; older ones come with older Pythons.
$(VENV)/.stamp-pip:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.stamp-%: pyproject.toml $(VENV)/.stamp-pip
	$(PIP) install --quiet --editable . --group $*
	@touch $@
