# make demo: the whole thread on real data.  make test: all tests.  Both set everything up first.
PYTHON := .venv/bin/python
export PYTHONUNBUFFERED := 1

PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

.PHONY: help setup demo test test-fast test-avx2 lint benchmark deploy-demo clean
help:
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready ## make .venv with the pinned packages

.venv/.ready: pyproject.toml constraints.txt scripts/setup.sh
	scripts/setup.sh
	touch $@

demo: setup ## federation, centralized baseline and probes on the embedded watch data, then one table
	$(PYTHON) -m simulation --config configs/demo.yaml --force
	$(PYTHON) -m centralized_baseline --config configs/demo.yaml --force
	$(PYTHON) -m centralized_baseline.probe --config configs/demo.yaml --regimes 1 2 all \
		--encoder raw features random runs/demo-centralized runs/demo-federated
	$(PYTHON) -m shared.report runs/demo-federated runs/demo-centralized runs/demo-raw runs/demo-features \
		runs/demo-random --out runs/demo-report.html --force

# Two at a time. Faults apart from the rest: they tell a client that hangs from one that is slow.
test: setup ## all tests
	$(PYTEST) --dist loadfile --no-loadscope-reorder --ignore tests/test_faults.py
	$(PYTEST) --dist load tests/test_faults.py

test-fast: setup ## unit and property tests, without real processes and trainings
	$(PYTEST) --dist worksteal -m "not slow"

test-avx2: setup ## the numerical tests as a processor without AVX-512
	$(AVX2) $(PYTEST) --dist worksteal -m numerics

lint: setup ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

benchmark: setup ## speed, memory and bytes as ratios
	$(PYTHON) -m benchmarks

deploy-demo: ## the same federation with Flower's deployment engine: ten containers, TLS, a key a client; needs Docker alone
	mkdir -p runs deployment-data/watch
	docker compose build
	docker compose run --rm prepare
	scripts/run-compose.sh --config configs/demo.yaml --force

clean: ## remove the environment and the caches, keep runs/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
