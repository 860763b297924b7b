# make demo   set up .venv, install, and show what steering does on the embedded models
# make test   set up what the tests need, lint, type-check, run every test

PYTHON ?= python3
# Pinned, so that a machine without a GPU can provide the small CPU build of it.
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/adaptvis eval

# Triton reads TRITON_INTERPRET when it is imported: its interpreter needs a process of its own.
test: .venv/installed-dev lint
	$(BIN)/python -m pytest
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels/interpreted

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
