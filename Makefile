# Every target does its own set-up: a virtual environment in .venv with the project and its tools.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help setup demo test lint clean

help:
	@echo "make demo   the whole way on real purchases: data, training, evaluation, server, answers"
	@echo "make test   every test that this machine can run"
	@echo "make lint   ruff and mypy"
	@echo "make clean  removes the environment and everything that was made"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/stars demo

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv artifacts
