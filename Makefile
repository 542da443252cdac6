# Everything from a fresh machine with Python, pip and make. `make` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PROCESSES := 3
unexport PYTHONDONTWRITEBYTECODE  # the tests start hundreds of processes

.DEFAULT_GOAL := help
.PHONY: help demo test test-machines test-distributed test-nkipy test-browser test-clients test-load fuzz check mutants release-check docs bench format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/installed-%: .venv/installed
	$(INSTALL) --editable '.[$*]'
	touch $@

demo: .venv/installed-text  ## a tiny trained model writes, then every kernel against its oracle
	$(BIN)/mimo demo

test: .venv/installed-test  ## the test suite, in three processes (PROCESSES=1, or more)
	$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=worksteal

# No test may depend on the machine. MACHINES=--short takes minutes; names select some.
test-machines: .venv/installed-test  ## the numbers under other BLAS kernels, processors, Pythons
	$(BIN)/python -m tools.machines $(MACHINES)

# One test after the other: ranks have timeouts, and there are up to eight of them.
test-distributed: .venv/installed-test  ## ranks as real processes: the same answers, nobody hangs
	$(BIN)/python -m pytest -m distributed

test-browser: .venv/installed-browser  ## the chat page in Chromium, which apt-get installs if it may
	$(BIN)/python -m tools.chromium

test-clients: .venv/installed-clients  ## LangChain's and LiteLLM's clients, and two checkers of the API
	$(BIN)/python -m pytest -m clients tests/serving/test_clients.py

test-load: .venv/installed-test  ## 2,000 requests to the server, a signal in the middle (3 minutes)
	$(BIN)/python -m pytest -s -m load tests/serving/test_load.py

fuzz: .venv/installed-test  ## 50,000 fresh cases of bad input: each is one line, never a traceback
	FUZZ_CASES=50000 $(BIN)/python -m pytest tests/test_fuzz.py

test-nkipy: .venv/installed-test .venv/installed-xla  ## traced programs on XLA (nkipy: see README)
	$(BIN)/python -c "import nkipy"
	$(BIN)/python -m pytest -m nkipy

check: .venv/installed-check  ## linters, types and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: .venv/installed-test  ## deliberate faults, each of which a test must catch
	$(BIN)/python -m tools.mutants

docs: .venv/installed-docs  ## the documentation site, in build/docs; a dead link fails
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
		--doctree-dir build/doctrees docs build/docs

# RELEASE=--short takes half a minute: with the libraries that are there, and nothing compiled.
release-check: .venv/installed-release  ## sdist and wheel, and all that a clean installation does
	$(BIN)/python -m tools.release_check $(RELEASE)

bench: .venv/installed-bench  ## measure: beside transformers, libraries, memory (over half an hour)
	$(BIN)/python -m benchmarks.cpu
	$(BIN)/python -m benchmarks.matmul_libraries
	$(BIN)/python -m benchmarks.ranks
	$(BIN)/python benchmarks/prepare_memory.py

format: .venv/installed-check  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the other targets made
	rm -rf .venv .venvs build dist
