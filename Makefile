# Every target sets up .venv by itself, once: the pinned versions of constraints.txt, tested together.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# tests run in as many processes as there are cores, each with one thread (tests/__init__.py)
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --maxprocesses=8 --dist=worksteal

.PHONY: help demo test test-quick test-slow test-all test-slurm test-faults test-gpu fuzz lint docs dist clean

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(READY) ## the main job on six photographs, no download
	$(BIN)/python run.py pictures=6

test: $(READY) ## the test suite
	$(PYTEST)

test-quick: $(READY) ## at each save: without whole programs, networks of full size and browsers
	$(PYTEST) -m "not whole and not slow and not slurm"

test-slow: $(READY) ## the long checks that `make test` leaves out
	$(PYTEST) -m "slow and not slurm"

test-all: $(READY) ## both, in one
	$(PYTEST) -m "not slurm"

test-slurm: $(READY) ## sweeps on a real Slurm: installs Debian's slurm-wlm and munge, so it needs root
	$(BIN)/python -m pytest -m slurm

test-faults: $(READY) ## what runs survive, with 50 kills at random moments
	$(PYTEST) tests/faults/test_faults.py -m "slow or not slow"

PART ?= all
test-gpu: $(READY) ## what needs a card, beside the CPU's numbers: figures in results/benchmark/gpu.md; PART=equal for one part
	$(BIN)/python -m experiments.benchmark.gpu part=$(PART)

MINUTES ?= 3
fuzz: $(READY) ## each parser of foreign files for so many minutes
	$(BIN)/python -m tests.fuzz minutes=$(MINUTES)

lint: $(READY) ## style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(READY) ## the documentation as a site, in results/site; a warning is an error
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -W --keep-going -q docs results/site

dist: $(READY) ## wheel and source distribution, in dist
	$(BIN)/python -m build .

# torch first: without it pip would look for the newest build that torchvision and grad-cam admit
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cluster,dev,docs,networks]"
	$(BIN)/python -m suny.torchvision_first
	touch $@

clean: ## what `make` has built
	rm -rf .venv
