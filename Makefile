# Verbs for people and CI. Each creates what it needs; the virtual environment of all of them is .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
FULL_DRILL := DRILL_OUTAGE_SECONDS=60 DRILL_REPLAYS=20 DRILL_RECORDS=3000 DRILL_DISK_REQUESTS=1000 DRILL_LOGINS=10000

.PHONY: help setup run demo test coverage check e2e keyring drill bench bench-usage clean

help: ## list the verbs
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

setup: $(VENV)/.ready ## create .venv with everything that is needed to run and test

$(VENV)/.ready: pyproject.toml requirements.lock setup.sh
	@./setup.sh $(VENV)
	@touch $@

run: setup ## start the daemon on SQLite (PORT=8000)
	@$(BIN)/proxyctl serve --port $(PORT)

demo: setup ## daemon, simulated provider, a key, one streamed request (ONCE=1 ends after it)
	@$(BIN)/proxyctl demo $(if $(ONCE),--once)

test: setup ## all tests but the ones that drive external programs, and the drills
	@$(BIN)/pytest -n 2 --dist loadgroup -m "not e2e and not drill"

coverage: setup ## the same tests with branch coverage, at about half the speed
	@rm -f .coverage .coverage.*
	@$(BIN)/pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered --cov-fail-under=80 -m "not e2e and not drill"

check: setup ## lint, format, types, import rules, schemas
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml proxyctl/examples/github-actions.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci proxyctl/examples/gitlab-ci.yml

e2e: setup tests/e2e/node_modules/.ready keyring ## the real Claude Code through the daemon (QUICK=1 for a part)
	@$(if $(QUICK),E2E_QUICK=1) $(BIN)/pytest -n 2 -m e2e tests/e2e

tests/e2e/node_modules/.ready: tests/e2e/package-lock.json
	@command -v npm >/dev/null || { echo "e2e needs npm: apt-get install npm"; exit 1; }
	@cd tests/e2e && npm ci --no-audit --no-fund
	@touch $@

keyring:
	@{ command -v gnome-keyring-daemon && command -v dbus-run-session; } >/dev/null || { \
	  line="apt-get install -y --no-install-recommends gnome-keyring dbus"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && $$line; else echo "e2e needs a keyring: sudo $$line"; exit 1; fi; }

drill: setup ## kills, outages and full disks under load, many times (CYCLES=200; QUICK=1 for a few)
	@$(if $(QUICK),,DRILL_CYCLES=$(or $(CYCLES),200) $(FULL_DRILL)) $(BIN)/pytest -n 0 -s -m drill tests/drill

bench: setup ## figures against nginx on loopback (QUICK=1 for a short run)
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

bench-usage: setup ## reports over ten million rows on PostgreSQL, one million on SQLite
	@$(BIN)/python -m bench.usage

clean: ## remove what the verbs made
	@rm -rf $(VENV) tests/e2e/node_modules .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
