# Every habit of this project is a target; `make help` lists them.
#
# Settings: PYTHON=/path/to/python3.11   which Python builds .venv (default: the first of 3.11, 3.12, 3.13 that runs)
#           MIXKD_TORCH=cpu|cuda         which PyTorch (default: cuda where there is an NVIDIA driver, else cpu)
#           MIXKD_CACHE=/folder          where downloads for demo and benchmarks are kept (default: ~/.cache/mixkd)

BIN := .venv/bin
DATA ?= mixkd-data
HOST ?= 127.0.0.1
PORT ?= 8000
SECONDS ?= 120
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup browser demo up test screenshots lint format types imports migrations test-all test-unit test-integration \
        test-acceptance test-architecture test-long chaos mutation bench-paper bench-gpu bench-claims docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## build or refresh .venv from constraints.txt
	@scripts/setup

demo: setup ## distil a real teacher with the real service, and show what came out
	@$(BIN)/python -m demo

up: setup ## run the whole service on this machine until Ctrl-C (DATA=, HOST=, PORT=)
	@exec $(BIN)/mixkd-server up --data-dir "$(DATA)" --host "$(HOST)" --port "$(PORT)"

test: ## every check there is: set-up, style, types, import rules, migrations, all tests
	@start=$$(date +%s) && \
	$(MAKE) --no-print-directory lint types imports migrations test-all && \
	echo "make test: everything passed in $$(( $$(date +%s) - start )) s"

lint: setup ## style: ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## let ruff put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy --strict: the server, the client, the demo, the benchmarks
	$(BIN)/mypy
	MYPYPATH=sdk/src $(BIN)/mypy -p mixkd_client -p demo -p benchmarks

imports: setup ## who may import whom: import-linter
	$(BIN)/lint-imports

migrations: setup ## alembic upgrade and check against the models, on a real Postgres
	$(BIN)/python -m pytest -q tests/integration/database

browser: setup ## see that there is a Chromium, for the tests of the pages
	@$(BIN)/python -m demo.browser

test-all: browser ## every test of every tier
	$(BIN)/python -m pytest -q --durations=10

test-unit: setup ## one module at a time; no server
	$(BIN)/python -m pytest -q tests/unit

test-integration: browser ## our parts with a real Postgres and Valkey
	$(BIN)/python -m pytest -q tests/integration sdk/tests

test-acceptance: browser ## the stack as a user starts it
	$(BIN)/python -m pytest -q tests/acceptance

test-architecture: setup ## import rules, module sizes, generated documentation
	$(BIN)/python -m pytest -q tests/architecture

test-long: setup ## every fault, the slow ones too, and a minute of chaos
	$(BIN)/python -m pytest -m "" -v --durations=0 tests/acceptance/faults

chaos: setup ## faults at random over short jobs on 3 workers, judged at the end (SECONDS=, SEED=)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --seconds "$(SECONDS)" --seed "$(SEED)"

mutation: setup ## change mixup.py and losses.py in every way mutmut knows, and see which change no test notices
	@# Not into .venv: where Celery finds setproctitle it renames its processes, which tests look for.
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt --target build/mutmut mutmut
	PYTHONPATH=build/mutmut OMP_NUM_THREADS=1 $(BIN)/python -m mutmut run --max-children 1
	PYTHONPATH=build/mutmut $(BIN)/python -m mutmut results

bench-paper: setup ## the paper's table on real text, three seeds (an hour or two; goes on where it stopped)
	$(BIN)/python -m benchmarks.paper

bench-gpu: setup ## a run of BERT-base's size where there is a GPU: speed, memory, the same bits
	$(BIN)/python -m benchmarks.gpu --out build/bench/gpu

screenshots: browser ## every page in both themes and two widths, over real jobs, with timings (three minutes)
	$(BIN)/python -m benchmarks.pages --out build/screenshots

bench-claims: setup ## 50 workers claim from 10,000 queued jobs, beside SKIP LOCKED alone (three minutes)
	$(BIN)/python -m benchmarks.claims --out build/bench/claims.md

docs: setup ## write the generated pages of docs/ anew
	$(BIN)/python scripts/docs.py

clean: ## remove what was built: .venv, build/, caches of tools
	rm -rf .venv build dist mutants *.egg-info sdk/src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
