# Needs Python 3.11 or newer, make, and the package registry; `make interop` needs Go, Node, Rust and
# Java besides. Everything is kept in .venv and .cache; nothing is installed outside.

SHELL := /bin/sh
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3.14 python3 2>/dev/null))
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The environment is as good as what it was made from: this stamp carries the hash of that.
PINS := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
STAMP := .venv/.made-from-$(PINS)

# What Python alone can run. `interop` needs programs in other languages.
TESTS := $(addprefix tests/,unit integration contract conformance e2e fuzz bench)
# Not beside others: these load every CPU with processes of their own, and judge what a starved
# process looks like (a store that does not answer, a worker that takes no connection).
ALONE := tests/chaos tests/integration/test_balance.py
# Needs a Collector, which Go builds.
FAULTS := tests/chaos/test_faults.py
CODE := gateway tests bench tools setup.py

# A process for each CPU; a module's tests stay in one process, so that what they share starts once.
# The last option wins: PYTEST="-n0 --pdb" runs everything in one process and stops at a failure.
PARALLEL := -n logical --dist loadscope
# Paths in PYTEST stand instead of those that a target would run.
NAMED = $(filter tests/%,$(PYTEST))

.PHONY: help demo compiled unit test lowest wheel runners sbom site interop chaos bench hostile fuzz lint lock clean

help:  ## list what can be made
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile | expand -t 10

demo: compiled  ## run everything at once: gateway, key store, receiver (DEMO="--data DIR" …)
	@$(BIN)/gateway demo $(DEMO)

compiled: $(STAMP)  ## compile the data path, if its sources have changed and a C compiler is here
	@$(BIN)/python tools/compile.py

unit: $(STAMP)  ## run the tests that start no process and no database: less than a minute
	@GATEWAY_PURE_PYTHON=1 $(BIN)/python -m pytest $(PARALLEL) $(if $(NAMED),,tests/unit) $(PYTEST)

test: compiled  ## run every test that Python alone can run (PYTEST="-k keys", PYTEST=tests/unit/wire)
ifneq ($(NAMED),)
	@$(BIN)/python -m pytest $(PARALLEL) $(PYTEST)
else  # pytest ends with 5 where PYTEST selects nothing: one of both may
	@$(BIN)/python -m pytest $(PARALLEL) $(TESTS) $(addprefix --ignore=,$(ALONE)) $(PYTEST); beside=$$?; \
	$(BIN)/python -m pytest $(ALONE) --ignore=$(FAULTS) $(PYTEST); alone=$$?; \
	case $$beside$$alone in 00 | 05 | 50) ;; *) exit 1 ;; esac
endif

lowest:  ## run the unit and contract tests with the lowest versions that pyproject.toml allows
	@$(PYTHON) tools/lowest.py

wheel: $(STAMP)  ## build the package, install it into an empty environment and run its scripts there (WHEEL=FOLDER keeps it)
	@$(BIN)/python tools/wheel.py $(WHEEL)

runners: $(STAMP)  ## run what `make wheel WHEEL=dist/wheel` has built with uvx and pipx (WHEEL=FOLDER)
	@$(BIN)/python -m tools.runners $(or $(WHEEL),dist/wheel)

sbom: wheel .cache/sbom/bin/cyclonedx-py  ## list what an installed gateway consists of, as CycloneDX, in dist/sbom.cdx.json
	@mkdir -p dist
	@.cache/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.cdx.json .cache/wheel/bin/python

.cache/sbom/bin/cyclonedx-py:
	@$(PYTHON) -m venv .cache/sbom
	@.cache/sbom/bin/python -m pip install --quiet 'cyclonedx-bom==7.5.0'

site:  ## build the documentation as a site in build/site; a warning, or a page that fetches from elsewhere, fails
	@$(PYTHON) -m tools.build_site

interop: compiled  ## build the real senders (Go, Node, Rust, Java), fetch Prometheus, and run the tests that need them
	@$(BIN)/python tests/interop/tools/build.py
	@$(BIN)/python tools/debian.py prometheus chromium
	@$(BIN)/python -m pytest tests/interop $(PYTEST)

chaos: compiled  ## kill and freeze what is around a gateway and in it while real senders send, 6 s each (SECONDS=60)
	@$(BIN)/python tests/interop/tools/build.py otelcol
	@CHAOS_SECONDS=$(or $(SECONDS),6) $(BIN)/python -m pytest -s $(FAULTS) $(PYTEST)

bench: compiled  ## measure requests beside other proxies, revocation, a million keys (BENCH=--quick: 3 minutes, requests only)
	@$(BIN)/python -m bench.prepare
	@$(BIN)/python -m bench.cpu $(BENCH)
ifeq ($(findstring --quick,$(BENCH)),)
	@$(BIN)/python -m bench.revocation
	@$(BIN)/python -m bench.scale
endif

fuzz: $(STAMP)  ## look for inputs that break something, coverage-guided (SECONDS=600)
	@GATEWAY_PURE_PYTHON=1 $(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),180)

hostile: compiled  ## attack a gateway beside well-behaved clients, 15 minutes (HOSTILE="--attack ping …")
	@$(BIN)/python -m bench.hostile $(HOSTILE)

lint: $(STAMP)  ## check style, format and types
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy

$(STAMP):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or make PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: install it, or make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@echo "Making .venv (again whenever requirements.lock or pyproject.toml changes) …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@GATEWAY_PURE_PYTHON=1 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f .venv/.made-from-*
	@touch $@

# pip-tools stands in an environment of its own: it must not decide what ours contains.
COMPILE := .cache/pip-tools/bin/pip-compile --quiet --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-emit-options --strip-extras --allow-unsafe

lock: .cache/pip-tools/bin/pip-compile  ## write the lock files anew from pyproject.toml
	$(COMPILE) --extra telemetry --extra test --extra bench -o requirements.lock pyproject.toml
	$(COMPILE) --extra telemetry -c requirements.lock -o requirements-runtime.lock pyproject.toml
	printf 'setuptools\nmypy\nmsgspec\n' | $(COMPILE) -c requirements.lock -o requirements-build.lock -
	printf 'mkdocs-material\n' | $(COMPILE) -o requirements-docs.lock -

.cache/pip-tools/bin/pip-compile:
	@$(PYTHON) -m venv .cache/pip-tools
	@.cache/pip-tools/bin/python -m pip install --quiet --upgrade pip 'pip-tools==7.6.2'

clean:  ## remove what was made, but for the programs in .cache/tools
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache/pip-tools .cache/runners .cache/sbom .cache/site .cache/wheel
	rm -f gateway/compiled.sha256
	find gateway -name '*.so' -exec rm {} +
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
