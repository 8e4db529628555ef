# `make demo` and `make test` need Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
# The tests mostly wait for servers: one worker more than cores.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, (os.cpu_count() or 1) + 1))')
STAMP := $(VENV)/.installed
# Some images forbid it; but every worker, and every process that a test starts, would compile the sources anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-long lint docs bench bench-smriti wheel-test clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

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
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-long: $(STAMP) ## fuzz in bulk, soak, kills, the browser: under fifteen minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m long

lint: $(STAMP) ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## tables beside the peers
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python -m tests.benchmarks

bench-smriti: $(STAMP) ## the whole service under load (POSTS=5000 for fewer posts)
	$(if $(POSTS),SMRITI_BENCH_POSTS=$(POSTS)) $(BIN)/python -m tests.benchmarks smriti

# The suite against the built package in an environment of its own, away from the sources; first bare, without extras.
wheel-test: $(STAMP) ## build sdist and wheel, install into an empty environment, test that
	rm -rf dist build && mkdir -p build/checkout
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv build/venv
	build/venv/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	build/venv/bin/pip install --quiet dist/*.whl
	cd build && venv/bin/python -W error -c 'import smriti_scale as s; [getattr(s, name) for name in s.__all__]; print(s.__version__, s.__file__)'
	build/venv/bin/pip install --quiet --group test "$$(ls dist/*.whl)[example]"
	cp -r tests examples docs README.md CHANGELOG.md mkdocs.yml pyproject.toml Makefile build/checkout/
	cd build/checkout && ../venv/bin/python -m pytest -n $(WORKERS) --dist loadgroup

clean: ## remove what make made
	rm -rf $(VENV) .smriti site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
