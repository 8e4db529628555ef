# `make demo` and `make test` need Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
STAMP := $(VENV)/.installed

.PHONY: demo test test-long lint docs bench wheel-test clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --group dev -e '.[example]'
	@touch $@

venv: $(STAMP) ## set up .venv

demo: $(STAMP) ## a replica set, Redis and the Smriti service, toured over HTTP (PORT, DEMO_ONCE=1)
	@exec $(BIN)/python -m examples.smriti.demo --port $(PORT) $(if $(DEMO_ONCE),--once)

test: $(STAMP) ## the suite, under three minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-long: $(STAMP) ## fuzz in bulk, soak, kills, the browser: under fifteen minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m long

lint: $(STAMP) ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## tables beside the peers
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python -m tests.benchmarks

clean: ## remove what make made
	rm -rf $(VENV) .smriti site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
