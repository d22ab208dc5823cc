## make run                              the data set in params.yaml (as shipped: digits)
## make run RECIPE=folder DATA=photos/   put a recipe in place, then run it
## make recipe RECIPE=... DATA=...       only put it in place
## make ui                               the Prefect and MLflow pages, until Ctrl-C
## make serve                            run every night on this machine, until Ctrl-C
## make test                             lint, types, import contracts, tests
## make lint                             the first three alone
## make bench                            what the wiring costs
## make bench-data                       sharding, loading and growth beside other systems
## make bench-train                      the training loop beside other trainers; accuracy
## make bench-compress                   compressed nets beside their parents and other tools

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers
IS_3_11 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python $(IS_3_11) && echo $$python && break; done)
# Stages are started as `python`: it must be the environment's.
export PATH := $(BIN):$(PATH)

.PHONY: help run recipe ui serve test lint bench bench-data bench-train bench-compress
.DEFAULT_GOAL := help

help:
	@sed -n 's/^## //p' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(or $(PYTHON),false) $(IS_3_11) || { echo "imagemill needs Python 3.11;" \
		"install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV): about 4 minutes and 6.4 GB, once"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(INSTALLED) $(if $(RECIPE)$(DATA),recipe)
	@$(BIN)/imagemill run

recipe: $(INSTALLED)
	@$(if $(RECIPE),,echo "DATA needs a recipe: make $(MAKECMDGOALS) RECIPE=folder DATA=$(DATA)" >&2; exit 2)
	@$(BIN)/imagemill recipe '$(RECIPE)' $(if $(DATA),--data '$(DATA)')

ui: $(INSTALLED)
	@$(BIN)/imagemill up

serve: $(INSTALLED)
	@$(BIN)/imagemill serve

test: lint
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.orchestration

# Peers want packages of their own, so they live beside the environment and look into it.
$(PEERS)/.installed: $(INSTALLED)
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $(PEERS)/lib/python3.11/site-packages/imagemill-environment.pth
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$$($(BIN)/python -m benchmarks.peers peers train-peers compress-peers)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation $$($(BIN)/python -m benchmarks.peers ffcv) || \
		echo "FFCV cannot be built here (it needs libopencv-dev, libturbojpeg0-dev and pkg-config): left out"
	@touch $@

bench-data: $(PEERS)/.installed
	$(PEERS)/bin/python -m benchmarks.data

bench-train: $(PEERS)/.installed
	$(PEERS)/bin/python -m benchmarks.training

# IMAGEMILL_DATASETS says where cifar10.tar.gz is; bases are trained the first time.
bench-compress: $(PEERS)/.installed
	$(PEERS)/bin/python -m benchmarks.compression
