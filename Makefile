# Needs Python 3.11+ and make; for a real broker also Docker, or Java 17+ with Maven. Everything else lands in .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest
PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs

# A Python on PATH may be a shim that fails, or lack venv: the first that runs and can do it is taken. BASE_PYTHON=... chooses.
BASE_PYTHON :=
CANDIDATES := $(BASE_PYTHON) python3.14 python3.13 python3.12 python3.11 python3 python
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# Each stage adds to one coverage file; the thresholds are checked over all of them.
COVERED := --cov --cov-branch --cov-append --cov-report=
MEMBERS := kafka_consumer tui tests bench

# Most tests wait more than they compute; those with a broker have the machine to themselves.
PARALLEL := -n 3

# How long `make soak` runs: a day is 1440.
SOAK_MINUTES := 10

.PHONY: help demo test test-unit test-integration test-tui e2e stress test-stress soak lint type cov bench bench-full bench-console screenshots docs check clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## the consumer and its console at work, with nothing else installed
	@if [ -f tui/cli.py ]; then exec $(VENV)/bin/kc-tui --demo; else exec $(VENV)/bin/kc --headless --demo; fi

test: $(INSTALLED) ## unit, integration, console and end-to-end tests and short stress, with branch coverage and its thresholds
	@rm -f .coverage .coverage.*
	$(PYTEST) -m unit $(PARALLEL) $(COVERED) --durations=5
	$(PYTEST) -m integration $(PARALLEL) $(COVERED) --durations=5
	$(PYTEST) -m tui $(PARALLEL) $(COVERED) --durations=5
	$(PYTEST) -m e2e $(COVERED) --durations=10
	$(PYTEST) -m stress_short $(COVERED) --durations=5
	$(PYTHON) tests/thresholds.py

test-unit: $(INSTALLED) ## unit tests alone
	$(PYTEST) -m unit $(PARALLEL)

test-integration: $(INSTALLED) ## integration tests alone
	$(PYTEST) -m integration $(PARALLEL)

test-tui: $(INSTALLED) ## the console's tests alone
	$(PYTEST) -m tui $(PARALLEL)

e2e: $(INSTALLED) ## end-to-end tests alone, on a real broker where one can be had
	$(PYTEST) -m e2e

test-stress: $(INSTALLED) ## load, endurance and chaos at full length: half an hour
	KC_STRESS_FULL=1 $(PYTEST) -m stress -s

stress: test-stress

soak: $(INSTALLED) ## the consumer under load for SOAK_MINUTES (10; SOAK_MINUTES=1440 is a day): no growth, nothing lost
	KC_STRESS_SECONDS=$$(( $(SOAK_MINUTES) * 60 )) $(PYTEST) -m soak -s

lint: $(INSTALLED) ## style and likely mistakes
	$(PYTHON) -m ruff check .

type: $(INSTALLED) ## types
	$(PYTHON) -m mypy

cov: test ## what no test reaches, line by line, in htmlcov/
	$(PYTHON) -m coverage html --quiet
	@echo "htmlcov/index.html"

bench: $(INSTALLED) ## kc next to a bare loop and a thread pool written by hand, minutes; BENCH='--rounds 5 --scenarios A,B50'
	$(PYTHON) bench/compare.py $(BENCH)

bench-full: $(INSTALLED) ## kc next to its peers, latency, memory, growth; hours, then docs/PERFORMANCE.md; BENCH='--scale 0.05'
	$(PYTHON) bench/full.py $(BENCH)

bench-console: $(INSTALLED) ## the console against its budget; BENCH='--quick' for a look at it
	$(PYTHON) bench/console.py $(BENCH)

screenshots: $(INSTALLED) ## the console's pictures and the tables of keys in the docs, drawn anew
	$(PYTHON) docs/screenshots.py

docs: $(INSTALLED_DOCS) ## the documentation as a site, in site/
	$(PYTHON) -m mkdocs build --strict

check: lint type test ## all that a change must pass

clean: ## delete what was made here, except .venv
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov site build dist demo-data
	find $(wildcard $(MEMBERS)) -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@if ! $(PYTHON) -c '$(SUITABLE)' 2>/dev/null; then \
		found=; \
		for candidate in $(CANDIDATES); do \
			if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "expected a Python of 3.11 or newer, with venv and pip, on PATH; none of these is: $(strip $(CANDIDATES))" >&2; \
			exit 1; \
		fi; \
		echo "$(VENV): $$found ($$("$$found" --version))"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@
