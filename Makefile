# Everything below makes its own virtual environment first; nothing else needs to be installed, not even Docker.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

ARGS ?=
SERVER ?= devserver
FILES ?=
SECONDS ?= 60
DELAY_MS ?= 0

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make demo ARGS=--json | jq` must see JSON and nothing else: no command is echoed, and set-up goes to stderr.
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help demo test contract lint typing bench soak clean

help: ## show this
	awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## rotate credentials under load, and watch; options in ARGS="…"
	$(BIN)/vault-pool demo $(ARGS)

test: $(READY) ## run the tests, two at a time; pytest's options in ARGS="…"
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

contract: $(READY) ## replay what real servers answered: SERVER=devserver|bao|vault FILES="…"; options in ARGS="…"
	$(BIN)/python -m tests.contract --server $(SERVER) $(ARGS) $(FILES)

lint: $(READY) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typing: $(READY) ## check types
	$(BIN)/mypy

bench: $(READY) ## measure against the raw psycopg_pool; options in ARGS="…"
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(READY) ## rotate for a while and count what is lost: SERVER=devserver|bao|vault SECONDS=60 DELAY_MS=0
	$(BIN)/python -m tests.soak --server $(SERVER) --seconds $(SECONDS) --delay-ms $(DELAY_MS) $(ARGS)

clean: ## remove what the other targets made, the virtual environment included
	if [ -e $(READY) ]; then rm -rf $(VENV); fi
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov benchmarks/results
	find vault_pool tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Dependency groups need pip 25.1. An environment without pip is one whose making was interrupted: make it again.
$(READY): pyproject.toml
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		command -v $(PYTHON) >/dev/null || { \
			echo "$(PYTHON) was not found: install Python 3.10 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
			echo "vault_pool needs Python 3.10 or newer and $(PYTHON) is `$(PYTHON) --version 2>&1`: name another," \
				"for example make PYTHON=python3.12" >&2; exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$(PYTHON) cannot make virtual environments: install its venv module, on Debian and Ubuntu with" \
				"apt install python3-venv" >&2; exit 1; }; \
		$(PYTHON) -m venv $(VENV) >&2; \
	fi
	echo "Installing vault_pool and its tools into $(VENV), once; this takes about a minute." >&2
	$(BIN)/python -m pip install --quiet 'pip>=25.1' >&2
	$(BIN)/python -m pip install --quiet --editable '.[dev,flask,django,sqlalchemy,prometheus,otel]' \
		--group test --group lint --group typing >&2
	touch $@
