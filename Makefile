# Two commands do everything on a machine with Python 3.11 to 3.14 and make; both set up what they need in .venv.
#   make demo   three videos with the bundled model, and a contact sheet, in demo/
#   make test   what the continuous integration runs: check, then all tests
# make PYTHON=python3.12 test chooses another Python.

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$python -c "$(SUPPORTED)" 2>/dev/null; then echo $$python; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help demo test bench check lint types imports format clean

help:
	@echo "make demo   generate three videos with the bundled model"
	@echo "make test   run the checks and the tests"
	@echo "make bench  measure speed and memory beside diffusers, a few minutes"
	@echo "make check  lint, formatting, types and the import contract"
	@echo "make format reformat the code"
	@echo "make clean  remove .venv and demo"

demo: $(VENV)/core.stamp
	$(BIN)/python examples/demo.py

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/run.py --quick

check: lint types imports

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/mypy

imports: $(VENV)/test.stamp
	$(BIN)/lint-imports

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo

# A stamp is younger than what it was made from, so that nothing is installed twice and a change is noticed.
$(VENV)/made.stamp:
	@$(or $(PYTHON),false) -c "$(SUPPORTED)" || \
		{ echo "Cogworks needs Python 3.11 to 3.14: install one, or name it with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/core.stamp: $(VENV)/made.stamp pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/made.stamp pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/core.stamp
