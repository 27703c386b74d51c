# Needs Python 3.11 or newer, make, and the package registry; `make interop` needs Go and its module
# proxy besides. Everything is kept in .venv and .cache; nothing is installed outside.

SHELL := /bin/sh
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3.14 python3 2>/dev/null))
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The environment is as good as what it was made from: this stamp carries the hash of that.
PINS := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
STAMP := .venv/.made-from-$(PINS)

# What Python alone can run. `interop` needs programs that Go builds.
TESTS := $(wildcard $(addprefix tests/,unit integration contract conformance e2e chaos fuzz bench))
CODE := gateway tests bench

.PHONY: help demo test interop bench lint lock clean

help:  ## list what can be made
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile | expand -t 10

demo: $(STAMP)  ## run everything at once: gateway, key store, receiver (DEMO="--data DIR" …)
	@$(BIN)/gateway demo $(DEMO)

test: $(STAMP)  ## run every test that Python alone can run (PYTEST="-k …")
	@$(BIN)/python -m pytest $(TESTS) $(PYTEST)

interop: $(STAMP)  ## fetch the real senders (Go builds them, apt has Prometheus), and run the tests that need them
	@$(BIN)/python tests/interop/tools/build.py
	@$(BIN)/python tests/interop/tools/debian.py
	@$(BIN)/python -m pytest tests/interop $(PYTEST)

bench: $(STAMP)  ## measure CPU per request beside other proxies, how fast a key is revoked, a million keys
	@$(BIN)/python -m bench.cpu
	@$(BIN)/python -m bench.revocation
	@$(BIN)/python -m bench.scale

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
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f .venv/.made-from-*
	@touch $@

# pip-tools stands in an environment of its own: it must not decide what ours contains.
COMPILE := .cache/pip-tools/bin/pip-compile --quiet --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-emit-options --strip-extras --allow-unsafe

lock: .cache/pip-tools/bin/pip-compile  ## write both lock files anew from pyproject.toml
	$(COMPILE) --extra test --extra bench -o requirements.lock pyproject.toml
	$(COMPILE) --extra build -c requirements.lock -o requirements-runtime.lock pyproject.toml

.cache/pip-tools/bin/pip-compile:
	@$(PYTHON) -m venv .cache/pip-tools
	@.cache/pip-tools/bin/python -m pip install --quiet --upgrade pip 'pip-tools==7.6.2'

clean:  ## remove what was made, but for the Go programs in .cache/tools
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache/pip-tools
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
