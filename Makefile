# Everything below makes its own virtual environment first; nothing else needs to be installed, not even Docker.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := dev,flask,django,sqlalchemy,prometheus,otel
GROUPS := test lint typing
DOCS_READY := $(VENV)/.docs-ready

comma := ,

ARGS ?=
SERVER ?= devserver
VAULT ?= hashicorp/vault:1.20,openbao/openbao:2.5
POSTGRES ?= postgres:18
PYTHONS ?=
FILES ?=
FORKS ?= 200
SECONDS ?= 60
DELAY_MS ?= 0
SEED ?= 1
MINUTES ?= 10

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make demo ARGS=--json | jq` must see JSON and nothing else: no command is echoed, and set-up goes to stderr.
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help demo forks frameworks platforms test test-containers test-package test-oldest contract lint typing bench faults soak chaos compose-smoke docs docs-links lock clean

help: ## show this
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## rotate credentials under load, and watch; options in ARGS="…"
	$(BIN)/vault-pool demo $(ARGS)

test: $(READY) ## run the tests, two at a time; pytest's options in ARGS="…"
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-containers: $(READY) ## the integration tests against images, by Docker: VAULT=image,… POSTGRES=image; options in ARGS="…"
	VAULT_POOL_TEST_VAULT=$(VAULT) VAULT_POOL_TEST_POSTGRES=$(POSTGRES) \
		$(BIN)/python -m pytest -n 2 --dist worksteal -m integration tests/integration $(ARGS)

contract: $(READY) ## replay what real servers answered: SERVER=devserver|bao|vault FILES="…"; options in ARGS="…"
	$(BIN)/python -m tests.contract --server $(SERVER) $(ARGS) $(FILES)

lint: $(READY) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typing: $(READY) ## check types
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(READY) ## measure against the raw psycopg_pool; options in ARGS="…"
	$(BIN)/python -m benchmarks $(ARGS)

faults: $(READY) ## break one thing by hand, under load: ARGS="revoke --server bao" or ARGS="outage --how refuse"
	$(BIN)/python -m tests.faults $(ARGS)

soak: $(READY) ## rotate for a while and count what is lost: SERVER=devserver|bao|vault SECONDS=60 DELAY_MS=0
	$(BIN)/python -m tests.soak --server $(SERVER) --seconds $(SECONDS) --delay-ms $(DELAY_MS) $(ARGS)

test-package: $(READY) ## the wheel and the sdist, the source tree out of the way: PYTHONS="python3.10 …"
	$(BIN)/python -m tests.package $(PYTHONS)

test-oldest: $(READY) ## the tests on the oldest dependencies that are allowed
	$(BIN)/python -m tests.package --oldest $(ARGS)

forks: $(READY) ## fork under load and rotations, and count what is lost: SERVER=devserver|bao|vault FORKS=200
	$(BIN)/python -m tests.forks --server $(SERVER) --forks $(FORKS) $(ARGS)

platforms: $(READY) ## run the unit tests without what Windows and macOS lack
	VAULT_POOL_TEST_PLATFORM=bare $(BIN)/python -m pytest tests/unit $(ARGS)

chaos: $(READY) ## break everything by a schedule under load, and judge: SERVER=devserver|bao|vault SEED=1 MINUTES=10
	$(BIN)/python -m tests.chaos --server $(SERVER) --seed $(SEED) --minutes $(MINUTES) $(ARGS)

frameworks: $(READY) ## the example applications under HTTP load through 20 rotations: SERVER=devserver|bao|vault; options in ARGS="…"
	$(BIN)/python -m tests.frameworks --server $(SERVER) $(ARGS)

compose-smoke: $(READY) ## bring docker-compose.yml up, load it through rotations, take it down; options in ARGS="…"
	$(BIN)/python -m tests.compose --openbao $(ARGS)

docs: $(DOCS_READY) ## build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	echo "build/docs/index.html"

lock: $(READY) ## find the newest versions of all that development needs, and write them to constraints.txt
	$(BIN)/python -m pip install --quiet uv >&2
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade --no-annotate \
		--custom-compile-command 'make lock' $(foreach group,$(GROUPS) docs,--group $(group)) \
		$(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) --output-file constraints.txt pyproject.toml

docs-links: $(DOCS_READY) ## ask every address that the documentation names; this needs the internet
	$(BIN)/python -m sphinx -q -b linkcheck -d build/doctrees docs build/links

clean: ## remove what the other targets made, the virtual environment included
	if [ -e $(READY) ]; then rm -rf $(VENV); fi
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov benchmarks/results
	find vault_pool tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Dependency groups need pip 25.1. An environment without pip is one whose making was interrupted: make it again.
$(READY): pyproject.toml constraints.txt
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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[$(EXTRAS)]' $(foreach group,$(GROUPS),--group $(group)) >&2
	touch $@

# What only the documentation needs, so that nobody waits for it before the first test.
$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs >&2
	touch $@
