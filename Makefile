# Needs Python 3.11 or newer and make; everything else goes into .venv.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo help test test-all test-compose bench docs lint secrets clean

# constraints.txt was resolved on 3.11, so that one is asked for first.
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python)
BIN := .venv/bin
PIP := $(BIN)/python -m pip

# The same pins for what pip needs to build this project itself: older pips read the first, newer ones the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

demo: .venv/.ready ## install, tune a network on 5,000 handwritten digits, show the best trial
	$(BIN)/tuner launch examples/mnist-cnn.yaml

help: ## show this list
	@sed -n 's|^\([a-z-]*\):.*## \(.*\)|make \1\t\2|p' Makefile | expand -t 16

test: lint ## install the test extras, then lint, types and the quick tests
	$(BIN)/pytest -m "not slow" -n auto --maxprocesses 8 --dist loadgroup

test-all: test ## the same and the slow tests
	$(BIN)/pytest -m slow -n auto --maxprocesses 8 --dist loadgroup

test-compose: .venv/.ready-to-test ## start docker-compose.yml for real, break it, and look; CONTAINER_PREPARE=script runs first
	$(BIN)/python tests/compose/run

secrets: .env ## random secrets for docker-compose.yml, in .env, which git ignores

.env: | $(BIN)/python
	@umask 077 && $(BIN)/python -c 'import secrets; \
	  [print(f"{name}={secrets.token_urlsafe(32)}") for name in ("POSTGRES_PASSWORD", "TUNER_DB_PASSWORD", \
	  "MLFLOW_DB_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY", "RAY_AUTH_TOKEN")]' > $@
	@echo "wrote $@; keep it: the databases know these passwords from their first start on"

# The quick ones of benchmarks/README.md, in this order, each with its arguments.
BENCHMARKS := \
	'study.py' \
	'study.py --trials 4 --epochs 2 --repeats 1 --peers optuna-fused optuna-journal optuna-memory ray' \
	'steps.py --quick' \
	'overhead.py --repeats 1 --who tuner-random tuner-tpe optuna-random optuna-tpe optuna-sqlite rustuna-tpe ray-actors ray-tune' \
	'memory.py --repeats 1' \
	'startup.py --repeats 1'

bench: .venv/.ready ## time Tuner beside its peers, a table for each comparison; wants a quiet machine
	@failed=0; for script in $(BENCHMARKS); do \
	  echo "benchmarks/$$script"; $(BIN)/python benchmarks/$$script || failed=1; \
	done; exit $$failed

docs: .venv/.ready ## write the generated tables of docs/reference
	$(BIN)/python docs/generate.py

lint: .venv/.ready-to-test ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove .venv and caches; studies in tuner-home stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: pip then takes the CPU build where an index offers one.
.venv/.ready: constraints.txt pyproject.toml | $(BIN)/python
	$(PIP) install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e .
	touch $@

.venv/.ready-to-test: .venv/.ready
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@

$(BIN)/python:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	    echo "$$python -m venv .venv"; exec "$$python" -m venv --clear .venv; \
	  fi; \
	done; \
	echo "expected Python 3.11 or newer with its venv module, found none among: $(PYTHONS)" >&2; \
	echo "install it (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1
