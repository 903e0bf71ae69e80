# The two commands are `make demo` and `make test`; `make help` lists the rest. Each sets up what it needs, once.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint train bench audit clean distclean

# The venv's folder; empty: .venv, or .venv-<distribution> where a ROS 2 is sourced. PYTHON: the interpreter to make it with.
VENV ?=
PYTHON ?=
# 1: install only files whose SHA-256 is in requirements-hashes.txt
HASHES ?= 0

# make demo: what to look at (a video file, a folder of images, toyvis:SEED, webcam:N), the words for it, comma separated,
# the model (a name in models/ or a file), the device (auto, cpu, cuda) and where the results go.
VIDEO ?=
VOCABULARY ?=
MODEL ?= toyvis
DEVICE ?= auto
OUTPUT ?= out/demo

# make test PYTEST_ARGS="-k masks -x", make train TRAIN_ARGS="toyvis --help"
PYTEST_ARGS ?=
TRAIN_ARGS ?= toyvis

# make bench: with so many threads of the CPU, at this precision; DEVICE as above
THREADS ?= 1
PRECISION ?= auto

# By the environment, so that words with quotes, commas or non-ASCII letters come through whole.
export VENV PYTHON HASHES VIDEO VOCABULARY MODEL DEVICE OUTPUT

RUN := scripts/run.sh

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  for example: make demo VIDEO=street.mp4 VOCABULARY="car, person with a hat"'

setup: ## make the venv, install the pinned packages, build the messages and nodes
	@scripts/setup.sh

build: setup

demo: setup ## camera and openvis node over DDS: out/demo/overlay.mp4, contact_sheet.png, instances.json
	@$(RUN) python scripts/demo.py

test: lint ## linters, then all tests
	@PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(RUN) pytest $(PYTEST_ARGS)

lint: setup ## ruff and mypy
	@$(RUN) ruff check .
	@$(RUN) mypy

train: setup ## make the embedded model from nothing
	@$(RUN) instformer train $(TRAIN_ARGS)

BENCH := $(RUN) instformer bench --device $(DEVICE) --threads $(THREADS) --precision $(PRECISION)
bench: setup ## frames a second, stages, peers and sweeps on DEVICE: out/bench/*.json, sweeps.png (see docs/performance.md)
	@$(BENCH) --size 256x192 --rounds 100 --json out/bench/embedded.json
	@$(BENCH) --model r50-vitb32 --against eager compiled crops --json out/bench/paper.json
	@$(BENCH) --model r50-vitb32 --size 640x384 --short 384 --only --against transformers transformers-compiled \
	  --json out/bench/transformers.json
	@$(BENCH) --model r50-vitb32 --only --sweep instances words cameras sizes --json out/bench/sweeps.json \
	  --plot out/bench/sweeps.png
	@$(RUN) python benchmarks/transport.py --seconds 60 --json out/bench/transport.json

audit: ## known vulnerabilities of the pinned packages, by PyPI's database
	@scripts/audit.sh

clean: ## remove what was built and written, keep the venv
	rm -rf build install log out .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the venvs as well
	rm -rf .venv .venv-*
