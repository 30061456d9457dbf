# Each target sets up what it needs in .venv; nothing but Python 3.11-3.13 and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
PYTEST := $(BIN)/python -m pytest
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

.PHONY: help setup demo test quick lint format bench chaos simulate constraints docs snapshot clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## Make .venv with the exact versions of constraints.txt

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("tideover needs Python 3.11, 3.12 or 3.13; say which with PYTHON=...") if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0'
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the exact versions of constraints.txt into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check --disable-pip-version-check
	@touch $(STAMP)

demo: $(STAMP)  ## Watch a business keep going while its ERP is down (KEEP=1 leaves it running)
	@$(BIN)/tideover demo $(if $(KEEP),--keep)

# WORKERS=0: all in one process, as a debugger wants it.
WORKERS ?= 2
test: $(STAMP)  ## Every test: unit, contract, integration, flows, packaging, simulation, chaos
	$(PYTEST) -n $(WORKERS) --dist loadgroup --cov --cov-report=term:skip-covered --cov-fail-under=85 $(ARGS)

quick: $(STAMP)  ## The tests that need no Prefect server and build no package
	$(PYTEST) -m "not prefect and not packaging" $(ARGS)

lint: $(STAMP)  ## ruff, mypy strict, import-linter, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## Let ruff write what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) $(BENCH_STAMP)  ## Measure it beside other systems and a bare loop, in one run (ARGS=--quick: ten minutes)
	$(BIN)/python -m bench $(ARGS)

# What is measured beside ours has pins of its own: an environment apart, so that they disturb nothing here.
$(BENCH_STAMP): constraints-bench.txt
	@test -d $(BENCH_VENV) || $(PYTHON) -m venv $(BENCH_VENV)
	@echo "Installing the exact versions of constraints-bench.txt into $(BENCH_VENV) ..."
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints-bench.txt
	@$(BENCH_VENV)/bin/python -m pip check --disable-pip-version-check
	@touch $(BENCH_STAMP)

# CHAOS_REPORT: what was seen goes into docs/proof.md and docs/proof.json.
KILLS ?= 20
SECONDS ?= 60
SEED ?= 1
chaos: $(STAMP)  ## Kill and freeze real workers, servers, systems (KILLS=20 SECONDS=60 SEED=1), and compare both ends
	CHAOS_REPORT=1 CHAOS_KILLS=$(KILLS) CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
	  $(PYTEST) tests/chaos --timeout 1800 -p no:randomly $(ARGS)

SEEDS ?= 2000
simulate: $(STAMP)  ## Months of trouble in virtual time, a seed each, in every processor (SEEDS=20000)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

constraints:  ## Resolve every dependency anew: exact versions and hashes, for each supported Python and platform
	@test -x $(BIN)/uv || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --group dev --output-file constraints.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --group pyproject.toml:bench --output-file constraints-bench.txt

docs: $(STAMP)  ## Write the generated documents: configuration reference and schema
	$(BIN)/python -m tideover.config.schema --markdown

snapshot: $(STAMP)  ## Write down the schema, rows and statements of the release that is being developed, for its successors
	$(BIN)/python -m tests.compatibility.snapshot

clean:  ## Remove .venv and everything that was generated
	rm -rf $(VENV) $(BENCH_VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage dist build
