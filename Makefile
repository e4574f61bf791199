# Two commands do everything on a fresh machine: `make up` and `make test`. Each sets up what it needs.
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: help up down reset check test bench setup
help:
	@echo "make up      a cluster with a sample page, from nothing"
	@echo "make down    stop it; make reset removes it"
	@echo "make test    every test"
	@echo "make check   format, lint, types, floors, generated files"
	@echo "make bench   the figures, beside those of the Go implementation"

setup:
	@tools/setup.sh

up: setup
	@$(BIN)/kaa up
	@$(BIN)/python examples/hello/run.py

down: setup
	@$(BIN)/kaa down

reset: setup
	@$(BIN)/kaa reset

check:
	@tools/setup.sh tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_api.py --check
	$(BIN)/python tools/generate_openapi.py --check
	$(BIN)/python tools/generate_protobuf.py --check

test:
	@tools/setup.sh tests
	$(BIN)/pytest -n 2

bench:
	@tools/setup.sh tests
	$(BIN)/python -m bench
