# make demo and make test do all the set-up they need, once. PYTHON= chooses the Python that .venv is made with,
# STACK=onedl the maintained forks of OpenMMLab's packages.
PYTHON ?= python3
SETUP = $(PYTHON) tools/setup_environment.py
PYTEST = python -m pytest --numprocesses logical --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs gpu setup check-python

help:
	@echo 'make demo          train and show a segmentor and a detector on generated scenes'
	@echo 'make test          run the tests but the slow ones; ARGS="-k window -x" runs some'
	@echo 'make test-all      run all tests and report coverage'
	@echo 'make lint          check style, format and types'
	@echo 'make docs          build the documentation as a site in build/site'
	@echo 'make gpu           check and measure mmtwins on a CUDA GPU'
	@echo 'make setup         set up the active environment, or .venv, and do nothing else'
	@echo 'PYTHON=python3.11  chooses the Python (3.10 to 3.14) that .venv is made with'
	@echo 'STACK=onedl        takes the maintained forks of the OpenMMLab packages'

demo: check-python
	@$(SETUP) -- python tools/demo.py $(ARGS)

test: check-python
	@$(SETUP) -- $(PYTEST) $(if $(strip $(ARGS)),$(ARGS),-m 'not slow')

test-all: check-python
	@$(SETUP) -- $(PYTEST) --cov $(ARGS)

lint: check-python
	@$(SETUP) -- sh -c 'ruff check . && ruff format --check . && mypy'

docs: check-python
	@$(SETUP) -- sh -c 'python -m pip install --quiet -r requirements/docs.txt && \
	python -m sphinx --fail-on-warning --keep-going -d build/doctrees -c docs . build/site && \
	echo "Open build/site/index.html in a browser."'

gpu: check-python
	@$(SETUP) -- python tools/gpu_report.py $(ARGS)

setup: check-python
	@$(SETUP)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || { \
	echo 'There is no Python 3.8 or newer called $(PYTHON).' >&2; \
	echo 'Install one (sudo apt-get install python3 python3-venv) or name yours: make demo PYTHON=python3.11' >&2; \
	exit 1; }
