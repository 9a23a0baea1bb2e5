# make demo and make test do all the set-up they need, once. PYTHON= chooses the Python that .venv is made with.
PYTHON ?= python3
SETUP = $(PYTHON) tools/setup_environment.py

.DEFAULT_GOAL := help
.PHONY: help demo test lint setup check-python

help:
	@echo 'make demo          train and show a segmentor and a detector on generated scenes'
	@echo 'make test          run the tests; ARGS="-k window -x" goes to pytest'
	@echo 'make lint          check the style with ruff'
	@echo 'make setup         only set up: the active environment, or .venv'
	@echo 'PYTHON=python3.11  chooses the Python (3.10 to 3.12) that .venv is made with'

demo: check-python
	@$(SETUP) -- python tools/demo.py $(ARGS)

test: check-python
	@$(SETUP) -- python -m pytest $(ARGS)

lint: check-python
	@$(SETUP) -- python -m ruff check .

setup: check-python
	@$(SETUP)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null || { \
	echo 'There is no Python 3 called $(PYTHON).' >&2; \
	echo 'Install one (sudo apt-get install python3 python3-venv) or name yours: make demo PYTHON=python3.11' >&2; \
	exit 1; }
