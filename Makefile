# Every target runs in the virtual environment of this folder, which `make setup` makes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= ../shared/data
PAIRS ?= ../shared/tools/pairs.jsonl

.DEFAULT_GOAL := help

.PHONY: help setup demo replay test check lint types cov policies docs evals evals-full bench wheel clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

setup: $(STAMP) ## Make the virtual environment with everything in it

demo: $(STAMP) ## See a cascade decide and save, without a key: two classifiers, trained here in seconds
	@$(BIN)/router demo
	@echo '(here router is $(BIN)/router; . $(BIN)/activate makes it router)'

replay: $(STAMP) ## The replay runner on sixteen tickets with scripted replies
	@$(BIN)/python -m evals.replay_ladder --data evals --set demo_tickets --ladder demo-small,demo-large \
	  --answer '{"choice": ["billing", "bug", "how-to", "other"]}' --show 6

test: check ## Everything that must hold: lint, types, floors, tests with branch coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=95

check: lint types ## Lint, strict types, floors, and generated files that are current

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache | tail -n 4
	$(BIN)/python docs/generate.py --check

types: $(STAMP)
	$(BIN)/mypy

policies: $(STAMP) ## Write the JSON Schema of policies anew
	$(BIN)/python -c "from router.spec.schema import schema_text; print(schema_text(), end='')" > policies/policy.schema.json

docs: policies ## Write the generated parts of the docs anew
	$(BIN)/python docs/generate.py

evals: $(STAMP) ## The figures of docs/evals.md; DATA=folder of the recorded sets
	@for run in $$(cat evals/runs.txt | tr ' ' '|'); do \
	  $(BIN)/python -m evals.replay_ladder --data $(DATA) $$(echo $$run | tr '|' ' '); echo; done
	@$(BIN)/python -m evals.certified_savings --data $(DATA) --pairs $(PAIRS)
	@$(BIN)/python -m evals.validity
	@$(BIN)/python -m evals.tune_speed

evals-full: $(STAMP) ## 2,000 tunings in each made-up world: hours; goes on where it was stopped
	@$(BIN)/python -m evals.validity --pipelines 2000 --out docs/results/validity_counts.json \
	  --commit "$$(git rev-parse --short HEAD)"

bench: $(STAMP) ## The speed budgets, as ratios in one run
	@$(BIN)/python -m evals.bench

wheel: $(STAMP) ## Build the wheel
	$(BIN)/python -m build --wheel

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
