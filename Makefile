# Everything sets itself up: the targets need Python 3.11, make, and a package index.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
# Every internal link and anchor is looked up, and a warning is an error.
SPHINX := $(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs linkcheck faults clean

help:
	@echo "make demo    set up, then ask the embedded model one question under two settings"
	@echo "make test    set up, then run all tests"
	@echo "make check   format, lint, types, import contracts, docs drift and links"
	@echo "make format  rewrite the code in the project's format"
	@echo "make faults  inject every fault and score what the diagnosis says (an hour or two)"
	@echo "make docs    write the generated parts of docs/ again, and the site to build/docs"
	@echo "make linkcheck  look up the links that lead out of the site (needs a network)"

demo: .venv/.run
	@$(BIN)/skipstone compare "Who is Newton, physics?" --cache dual --unmask fixed \
	  --a "skip=cosine:skip_threshold=1" --b "skip=cosine:skip_threshold=0.9999"; \
	  test $$? -le 1

test: .venv/.dev
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup

check: .venv/.dev
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyrefly check --summary=none
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m docs.generate --check
	@$(SPHINX) -b html docs build/docs

format: .venv/.dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

faults: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m faults.bench --jobs 2 --docs docs/diagnoses.md

docs: .venv/.dev
	@$(BIN)/python -m docs.generate
	@$(SPHINX) -b html docs build/docs
	@echo "build/docs/index.html"

linkcheck: .venv/.dev
	@$(SPHINX) -b linkcheck docs build/linkcheck

clean:
	rm -rf .venv build dist

# Each stamp is newer than what it was made from, so a second run does no set-up.
.venv/.base: constraints.txt
	@test -x $(BIN)/python || { echo "setting up .venv (once) ..."; $(PYTHON) -m venv .venv; }
	@touch $@

.venv/.run: .venv/.base pyproject.toml
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.run
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
