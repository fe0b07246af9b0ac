# `make help` lists the targets. All of them share one environment, `.venv`, which is made when it is missing
# and brought up to date when pyproject.toml or constraints.txt change.
#
# PYTHON           the interpreter that makes the environment (default: python3.11, else python3)
# TORCH_INDEX_URL  where pip takes torch from, if not from your pip's own index: see docs/launching.md, "Install"
# WORKERS          test processes (default 2)
# THREADS          threads that `make quickstart` trains with (default: every core)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX_URL ?=
WORKERS ?= 2
THREADS ?= $(shell getconf _NPROCESSORS_ONLN)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
QUICKSTART := outputs/quickstart

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint hub clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

quickstart: .venv/ready ## train a small model on real text, score it, fill five blanks, load it back
	OMP_NUM_THREADS=$(THREADS) $(BIN)/accelerate launch --config_file training/launch/one_process.yaml training/train.py training/recipes/text_jepa/quickstart.yaml
	$(BIN)/python -m eval.fill_blank $(QUICKSTART) "the people of the _ states" --answer united
	$(BIN)/python eval/load_as_stranger.py $(QUICKSTART)
	@echo "Model, card and scores: $(QUICKSTART)/ (the card is $(QUICKSTART)/README.md)"

test: .venv/ready ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS)

lint: .venv/ready ## format check, lint and types, as pre-commit does
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

hub: .venv/ready ## a Hub on this machine to try publishing against, kept in outputs/hub; Ctrl-C ends it
	$(BIN)/python -m tests.hub.server

clean: ## remove builds and tool caches (not .venv, not outputs/)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# torch goes first and alone, because it may come from an index of its own; hatchling before the project, so that
# the build uses the pinned one and needs no second environment. An interrupted run is picked up where it stopped.
.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 on the path; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up .venv with $(PYTHON); the first time takes a few minutes."
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	@$(PIP) hatchling
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@
