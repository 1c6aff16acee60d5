# Every target installs what it needs: a virtual environment in .venv, tools in .tools.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FUZZ_SECONDS ?= 60
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# tykpy alone, and tykpy with everything that tests, checks and benchmarks need.
TYKPY = $(VENV)/.tykpy
STAMP = $(VENV)/.installed

.PHONY: run test other-pythons test-gateway check soak fuzz bench bench-gateway bench-docs flamegraph proto docs site clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tykpy needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(TYKPY): setup.cfg pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable .
	@touch $@

$(STAMP): setup.cfg pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable '.[contributing,benchmarks]'
	@touch $(TYKPY) $@

run: $(TYKPY)  ## start a broker with the example bundle and show what its hooks do
	$(BIN)/python -m examples.demo

test: $(STAMP)  ## all checks and tests, on every supported Python found here
	$(MAKE) --jobs=2 --output-sync check other-pythons
	PYTHON=$(BIN)/python PYTHONS="$(PYTHONS)" scripts/test-all

other-pythons: $(STAMP)
	PYTHONS="$(PYTHONS)" scripts/test-other-pythons install

test-gateway: $(STAMP)  ## docs/compatibility.md through a real gateway, classic and OAS APIs: TYK=/path/to/tyk
	@if [ -z "$(TYK)" ]; then echo "skipped: no gateway binary; make test-gateway TYK=/path/to/tyk"; \
	else TYK="$(TYK)" $(BIN)/python -m pytest -q -rs tests/gateway; fi

check: $(STAMP)  ## formatting, lint, types, who imports whom, and whether the documentation site builds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zensical build --strict

soak: $(STAMP)  ## the long forms of the tests, and what they measured: about half an hour; then the fuzzers
	$(BIN)/python -m pytest -s -q -m soak --timeout 3600
	$(MAKE) fuzz

fuzz: $(STAMP)  ## run the fuzzers, FUZZ_SECONDS for each target in tests/fuzz/targets.py
	$(PIP_INSTALL) --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

bench: $(STAMP)  ## side by side with grpcio, big bodies, the rings alone, every promise of speed, the cost of metrics and traces, capacity, and recovery
	-$(PIP_INSTALL) --only-binary :all: iceoryx2
	$(BIN)/python -m benchmarks.compare --install
	$(BIN)/python -m benchmarks.bodies
	$(BIN)/python -m benchmarks.ring
	$(BIN)/python -m benchmarks.bars
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.capacity
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.gateway

bench-gateway: $(STAMP)  ## HTTP requests through a gateway, tykpy beside other ways to run hooks; TYK=/path/to/tyk: through a Tyk Gateway
	TYK="$(TYK)" $(BIN)/python -m benchmarks.gateway

bench-docs: $(STAMP)  ## measure the promises, and renew their table and plots in docs
	-$(PIP_INSTALL) --only-binary :all: iceoryx2
	@mkdir -p .tools
	$(BIN)/python -m benchmarks.bars --json .tools/bars.json
	$(BIN)/python -m scripts.benchmark_docs .tools/bars.json

flamegraph: $(STAMP)  ## where the time of the broker and of a worker goes, as SVG files in docs; needs root
	$(BIN)/python -m benchmarks.flamegraph

proto:  ## regenerate tyk/proto from its .proto files, with the oldest protobuf that is supported
	$(PYTHON) -m venv .tools/proto
	.tools/proto/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.75.1
	.tools/proto/bin/python scripts/generate_protos.py

site: $(STAMP)  ## show the documentation site, and build it again when a page changes
	$(BIN)/zensical serve

docs: $(STAMP)  ## regenerate the generated parts of the docs
	$(BIN)/python -m scripts.generate_docs

clean:
	rm -rf $(VENV) .tools build dist *.egg-info
