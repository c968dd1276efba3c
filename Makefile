# Two commands do all: `make demo` runs the fusion pipeline on data with known answers, `make test` passes the tests.
PYTHON := .venv/bin/python
# Compiled files stay, whatever the environment says: tests start hundreds of interpreters.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := batch_pipeline steps examples tests benchmarks scripts main.py
FAST := not (engine or tools or browser or faults or containers or servers or properties or moto or repository or git or slow)

.DEFAULT_GOAL := help
.PHONY: help demo test unit pythons mutants pictures check check_check fmt map measures lock release bench clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Run the pipeline on simulated and real samples, and compare the fusions found with the truth.
	@scripts/install.sh tools
	@scripts/install.sh python
	@$(PYTHON) main.py demo

test: ## Install what the tests need, check types and style, run all tests.
	@scripts/install.sh tools
	@scripts/install.sh browser
	@scripts/install.sh containers
	@scripts/install.sh databases
	@scripts/install.sh python --dev
	@scripts/install.sh crates
	@$(MAKE) --no-print-directory check
	$(PYTHON) -m pytest -q -n 2 --dist loadgroup

unit: ## Run the fast tests only: no servers, no tools, no network, no random search.
	@scripts/install.sh python --dev
	$(PYTHON) -m pytest -q -n 2 --dist loadgroup -m "$(FAST)"

pythons: ## Run the fast tests on every Python from 3.11 to 3.14 that is here, pyenv's among them.
	@scripts/install.sh python --dev
	@$(PYTHON) -m scripts.pythons -n 2 --dist loadgroup -m "$(FAST)"

mutants: ## Print changes to the deciding modules that no test notices: hours, or minutes with OPTIONS="--most 20".
	@scripts/install.sh python --dev
	$(PYTHON) -m scripts.mutants $(OPTIONS)

check: check_check ## Check style and types.
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check -q $(SOURCES)
	$(PYTHON) -m mypy

check_check: ## Make sure that the type checker still finds a wrong type.
	@folder=$$(mktemp -d) && printf 'x: int = "no"\n' > $$folder/wrong.py && \
	if $(PYTHON) -m mypy --no-incremental $$folder/wrong.py >/dev/null 2>&1; then \
	  echo "mypy accepted a wrong type: the check checks nothing" >&2; exit 1; fi; rm -r $$folder

fmt: ## Format the code.
	$(PYTHON) -m ruff format $(SOURCES)
	$(PYTHON) -m ruff check --fix $(SOURCES)

map: ## Write the list of files in ARCHITECTURE.md and docs/api.md from their docstrings.
	@$(PYTHON) -m scripts.file_map
	@$(PYTHON) -m scripts.api_page

measures: ## Print what a reviewer would measure of the package, beside its bounds.
	@$(PYTHON) -m scripts.measures

lock: ## Choose the newest packages, with Python 3.11; the lock file names no index.
	@scripts/install.sh python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and \
	  "Newer Pythons need fewer packages: lock with a .venv of Python 3.11.")'
	@scripts/install.sh pipenv
	PIPENV_VENV_IN_PROJECT=1 PIPENV_IGNORE_VIRTUALENVS=1 .venv/tools/bin/pipenv lock
	$(PYTHON) -m scripts.trim_lock

pictures: ## Make the pictures of the docs, with Chromium.
	@scripts/install.sh browser
	@scripts/install.sh python --dev
	@$(PYTHON) -m scripts.pictures

release: ## Cut a version: VERSION=1.2.0 commits and tags it, and builds its wheel into dist/.
	@scripts/install.sh python
	@$(PYTHON) -m scripts.release $(VERSION)
	$(PYTHON) -m pip wheel -q --no-deps --wheel-dir dist .

bench: ## Measure against bounds and peers; prints tables.
	@scripts/install.sh tools
	@scripts/install.sh databases
	@scripts/install.sh python --dev
	$(PYTHON) -m benchmarks

clean: ## Remove what the commands above made, but not the results of runs.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis artifacts
