# Everything runs from the checkout; only the dependencies are installed, into .venv.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/.installed

# Wheels of a gigabyte on a slow line need more than uv's half a minute.
export UV_HTTP_TIMEOUT ?= 300

.DEFAULT_GOAL := help
.PHONY: help demo test check core-proofs proofs gpu bench docs lock clean-venv
.DELETE_ON_ERROR:

# make takes seed=1 as a variable of its own, which no command sees.
KEYS := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
ifneq ($(filter-out ARGS PYTHON BIN UV_% MAKE%,$(KEYS)),)
$(error make passes no keys on. Fix: write ARGS="$(filter-out ARGS=% PYTHON=% BIN=% UV_% MAKE%,$(MAKEOVERRIDES))")
endif

help: ## Print this list.
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(READY) ## Train two tiny students and write runs/demo/report.html (options: ARGS="seed=1").
	@$(BIN)/python demo.py $(ARGS)

test: $(READY) ## Run the checks and every test but the proofs and those that need a GPU.
	@began=$$(date +%s); $(MAKE) --no-print-directory check && \
		$(BIN)/python -m pytest -m "not proof and not gpu" -n 2 --dist loadscope --no-loadscope-reorder --durations=15 --durations-min=1 $(ARGS); \
		status=$$?; took=$$(($$(date +%s) - began)); echo "make test took $$((took / 60)) min $$((took % 60)) s"; exit $$status

check: $(READY) ## Check the format, the lint rules and the layers (imports go down only).
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo

# The log says what was killed and when, what each run printed, and how large the pool was.
core-proofs: $(READY) ## Run the proofs that matter most (25 minutes at most); what they did: runs/core_proofs.log.
	@mkdir -p runs; set -o pipefail; \
		timeout --kill-after=60 1500 $(BIN)/python -m pytest -v -m core -rP --durations=0 $(ARGS) 2>&1 | tee runs/core_proofs.log

proofs: $(READY) ## Run the tests that take long: students that show the paper's effect, runs that lose processes.
	@$(BIN)/python -m pytest -m proof --durations=0 $(ARGS)

gpu: $(READY) ## Check this machine's GPU in 8 minutes at most: tests, speed, memory, profiles, in benchmarks/results/.
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

bench: $(READY) ## Run the benchmarks that fit two cores, in 12 minutes at most, into benchmarks/RESULTS.md.
	@$(BIN)/python -m benchmarks.all_results $(ARGS)

docs: $(READY) ## Write the generated reference pages and build the site, strictly, into site/.
	@$(BIN)/python -m tests.docs.reference
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "built site/index.html"

lock: $(BIN)/uv ## Compile requirements.txt from pyproject.toml (newest versions: ARGS=--upgrade).
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --extra test --extra docs --quiet \
		--universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
		--no-emit-index-url --no-emit-find-links $(ARGS) --output-file requirements.txt
	@echo "requirements.txt: $$(grep -c '^[a-z0-9]' requirements.txt) pins"

clean-venv: ## Remove .venv; the next target makes it afresh.
	@rm -rf .venv

# The stamp is written last, so the next target continues an interrupted install. Bytecode is compiled
# here, once: where Python may not write it, every process would spend fifteen seconds more on importing diffusers.
$(READY): requirements.txt $(BIN)/uv
	@echo "Installing the pinned requirements into .venv (once; a minute where the wheels are at hand)"
	@quiet=--quiet; if [ -t 2 ]; then quiet=; fi; \
		$(BIN)/uv pip install $$quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.txt || { \
		echo "Installing failed: check the network and the disk (8 GB), then give the same command again; it continues where it stopped." >&2; \
		exit 1; }
	@touch $@

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null || { \
		echo "'$(PYTHON)' was not found: install Python 3.11 or newer and name it, as in: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "'$(PYTHON)' is older than 3.11: name a newer one, as in: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.11" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv && $(BIN)/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION) || { \
		echo "Making .venv failed: check the network (on Debian also: apt-get install python3-venv), then: make clean-venv, and the same command again." >&2; \
		exit 1; }
