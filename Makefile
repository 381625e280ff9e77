# `make` lists the targets.  Another interpreter: make digits PYTHON=python3.12
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PYTHONUNBUFFERED := 1

PYTHON ?= python3
JOBS ?= 2
WORKDIR ?= runs/digits
ARGS ?=
RECORDS ?=
version := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
EXTRA ?=
VENV ?= .venv-$(version)$(addprefix -,$(EXTRA))
CONSTRAINTS ?= constraints/py$(subst .,,$(version)).txt
comma := ,
stamp := $(VENV)/.installed
python := $(VENV)/bin/python

.PHONY: help venv digits digits-short ablate test test-slow lint oracle samplers-doc bench bench-train bench-gpu bench-samplers peers clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo '  PYTHON=python3.12 chooses the interpreter (3.11, 3.12, 3.13); ARGS="..." is handed to the program; JOBS=2 test processes; EXTRA=cuda12 for a GPU (cuda13, tpu)'

venv: $(stamp)  ## virtual environment .venv-<version> with everything that was tried for this Python

$(stamp): setup.py tools/make_venv.py $(wildcard $(CONSTRAINTS))
	@[ -n "$(version)" ] || { why=$$($(PYTHON) -c pass 2>&1 | grep -m1 . || true); echo "make: PYTHON: '$(PYTHON)' cannot be run ($$why); allowed: Python 3.11, 3.12 or 3.13, for example PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) tools/make_venv.py $(VENV) $(CONSTRAINTS) '.[dev$(addprefix $(comma),$(EXTRA))]'

digits: $(stamp)  ## train on handwritten digits, sample, table and pictures: about 5 minutes on 2 cores
	@$(python) -m experiments.digits --workdir $(WORKDIR) $(ARGS)

digits-short: $(stamp)  ## the same in two minutes, with a network that is not done learning
	@$(python) -m experiments.digits --short --workdir $(WORKDIR)-short $(ARGS)

ablate: $(stamp)  ## compare samplers on a trained workdir at equal network evaluations: WORKDIR/ablation/report.html
	@$(python) -m experiments.ablate_samplers --workdir $(WORKDIR) $(ARGS)

test: lint  ## lint, then the tests: under 10 minutes on 2 cores, no network
	@$(python) -m pytest -n $(JOBS) --dist loadfile --max-worker-restart=0 $(ARGS)

test-slow: $(stamp)  ## cross-products and long repetitions
	@$(python) -m pytest -n $(JOBS) --dist loadfile --max-worker-restart=0 -m slow $(ARGS)

lint: $(stamp)  ## ruff, and the floors by import-linter
	@$(python) -m ruff check --quiet .
	@$(VENV)/bin/lint-imports --no-logo --no-cache

oracle: $(stamp)  ## every record of the peers' samplers against ours (RECORDS=folder: others)
	@$(python) tests/oracle/report.py $(RECORDS)

samplers-doc: $(stamp)  ## docs/samplers.md: every solver, its order measured
	@$(python) tools/sampler_docs.py

bench: $(stamp)  ## the framework against bare JAX, side by side
	@$(python) -m benchmarks $(ARGS)

bench-train: $(stamp)  ## training beside bare JAX and torch, checkpoints, log lines: half an hour (a part: ARGS="--networks dit8")
	@$(python) -m benchmarks --only train_step,train_extras,train_devices,train_peers $(ARGS)

bench-gpu: $(stamp)  ## one table on an accelerator: DiT-B/2, DiT-XL/2, U-Net against its measured peak (without one: ARGS=--toy)
	@$(python) -m benchmarks --only gpu $(ARGS)

bench-samplers: $(stamp)  ## every solver's overhead, time, compile time and loop; peers side by side (short: ARGS="--solvers Heun DDIM")
	@$(python) -m benchmarks --only samplers,dit8,compile,loops,peers $(ARGS)

peers: $(stamp)  ## diffusers, k-diffusion and azula into the same environment, for bench-samplers
	@$(python) -m pip install --quiet -c $(CONSTRAINTS) -e '.[peers]'
	@$(python) -m pip install --quiet --no-deps k-diffusion

clean:  ## remove environments and caches; runs/ and data/ stay
	rm -rf .venv-* .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
