# The two commands of a newcomer are `make up` and `make test`; both set up what they need.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

.PHONY: check test
check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_api.py --check
	$(BIN)/python tools/generate_openapi.py --check

test: $(VENV)/.ready
	$(BIN)/pytest -n 2

$(VENV)/.ready: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev,openapi]'
	touch $@
