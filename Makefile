# Everything sets itself up: the targets need Python 3.11 or newer, make, and a package index.
#   make demo PYTHON=python3.12    by that Python; a .venv of another one is made anew
#   make demo TORCH_INDEX=URL      torch from another index, such as one of builds without CUDA
PYTHON ?= python3
BIN := .venv/bin
# Every internal link and anchor is looked up, and a warning is an error.
SPHINX := $(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet

.DEFAULT_GOAL := help
.PHONY: help demo demo-serve test test-around test-long check format docs notebook screenshots linkcheck faults published fuzz fuzz-serve load-serve soak kill clean

help:
	@echo "make demo    set up, then ask the embedded model one question under two settings"
	@echo "make demo-serve  serve the embedded model, and ask it through OpenAI's client"
	@echo "make test    set up, then run the tests (under twelve minutes on two cores)"
	@echo "make test-around  then those of pages, docs, terminals, installs, kills, kernels and clusters (nine)"
	@echo "make test-long  then those that take minutes, of which make test has a shorter form"
	@echo "make check   format, lint, types, import contracts, docs drift and links"
	@echo "make format  rewrite the code in the project's format"
	@echo "make faults  inject every fault and score what the diagnosis says (an hour or two)"
	@echo "make published FAST_DLLM=PATH  plant faults into published code (see docs/diagnoses.md)"
	@echo "make fuzz    try 20,000 broken inputs (minutes; goes on where it was stopped)"
	@echo "make fuzz-serve  send 10,000 malformed requests to a server (half an hour)"
	@echo "make load-serve  ask a server 1,000 requests at once, and each alone (some minutes)"
	@echo "make soak    ask a server all sorts of things for two hours; MINUTES=15 for less"
	@echo "make kill    kill commands that write 1,000 times (about 20 minutes; goes on likewise)"
	@echo "make docs    write the generated parts of docs/ again, and the site to build/docs"
	@echo "make screenshots  take the pictures of the report page again (needs Chromium)"
	@echo "make notebook  run the example notebook and keep its outputs in it (a minute)"
	@echo "make linkcheck  look up the links that lead out of the site (needs a network)"
	@echo "PYTHON=python3.12 as an argument chooses the Python of .venv"

demo: .venv/.run
	@$(BIN)/skipstone compare "Replace somebody in the queue Tom, Anna, Leo, Mia by Zoe." --cache dual --unmask fixed --gen-length 32 \
	  --a "skip=cosine:skip_threshold=1" --b "skip=cosine:skip_threshold=0.99"; \
	  test $$? -le 1

demo-serve: .venv/.serve
	@$(BIN)/python examples/ask_server.py

# Compiled files are kept, whatever the environment says: tests start many processes.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -q

# A file is the work of one process: what its tests share is made once. One that ended over a test
# would try the same test again.
SPREAD := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

# Those that wait for a browser, a site, a shell, an environment, a killed process, a cluster, a
# harness or the interpreter of kernels.
AROUND := tests/docs tests/report/test_reading.py tests/report/test_browser.py tests/leaderboard/test_browser.py tests/server/test_pages.py tests/server/test_playground.py \
  tests/ops/test_kernels.py tests/cli/test_terminal.py tests/server/test_process.py tests/install tests/kill \
  tests/integrations/test_lm_eval.py tests/pebble/test_ranks.py

# A process that was connected to a cluster ends with it, a minute later and without a word, if it is
# a worker of others; the tests of clusters have processes of their own.
CLUSTERS := tests/server/test_replicas.py tests/offline tests/sweep/test_sweep.py

test: .venv/.dev
	@$(PYTEST) $(SPREAD) -m "not long and not ray" $(addprefix --ignore=,$(AROUND))

test-around: .venv/.dev
	@$(PYTEST) $(SPREAD) $(AROUND)
	@for tests in $(CLUSTERS); do $(PYTEST) -m ray $$tests || exit 1; done

test-long: .venv/.dev
	@$(PYTEST) -m long -o faulthandler_timeout=3600

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

# Checkouts of published code by path; what is not named is left out. Nothing is downloaded.
CHECKOUTS := $(foreach name,FAST_DLLM LLADA DREAM DLLM ES_DLLM DKV_CACHE SDAR OPEN_DLLM DINFER DLLM_CACHE D2CACHE,$(if $($(name)),\
  --$(subst _,-,$(shell echo $(name) | tr A-Z a-z)) "$($(name))"))
published: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m faults.published $(CHECKOUTS) $(if $(HELDOUT),--heldout) $(if $(UNSEEN),--unseen) --jobs 2

fuzz: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

fuzz-serve: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.serve

load-serve: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.server.under_load

MINUTES := 120
soak: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.server.soak --minutes $(MINUTES)

kill: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.kill

docs: .venv/.dev
	@$(BIN)/python -m docs.generate
	@$(SPHINX) -b html docs build/docs
	@echo "build/docs/index.html"

screenshots: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m docs.screenshots

notebook: .venv/.dev
	@$(BIN)/python -m docs.notebook

linkcheck: .venv/.dev
	@$(SPHINX) -b linkcheck docs build/linkcheck

clean:
	rm -rf .venv build dist

# .venv is made where none works, and made anew where PYTHON names another Python than its own.
version = $(shell "$(1)" -c 'import sys, pip; print(sys.version)' 2>/dev/null)
OWN := $(call version,$(BIN)/python)
ifeq ($(OWN),)
ANEW := anew
else ifneq ($(origin PYTHON),file)
ifneq ($(OWN),$(call version,$(PYTHON)))
ANEW := anew
endif
endif

# Each stamp is newer than what it was made from, so a second run does no set-up.
.venv/.base: constraints.txt $(ANEW)
	@touch $@

.PHONY: anew
anew:
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is no command here; $(NAME_ONE)" >&2; exit 1; }
	@"$(PYTHON)" -c "$$check_version"
	@echo "setting up .venv (once); packages are downloaded, $(LOG) says which" >&2
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv

NAME_ONE := Skipstone needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12
define check_version
import sys
v = sys.version_info
v >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d.%d; $(NAME_ONE)" % v[:3])
endef
export check_version

# pip says nothing unless it fails; then the last of it names what does not go together.
LOG := .venv/pip.log
install = @$(BIN)/python -m pip --disable-pip-version-check install --progress-bar off $(1) \
	>$(LOG) 2>&1 || { tail -n 40 $(LOG) >&2; exit 1; }

.venv/.run: .venv/.base pyproject.toml
	$(if $(TORCH_INDEX),$(call install,--index-url $(TORCH_INDEX) "$$(grep ^torch== constraints.txt)"))
	$(call install,-c constraints.txt -e .)
	@touch $@

.venv/.serve: .venv/.run
	$(call install,-c constraints.txt -e '.[serve]' openai)
	@touch $@

.venv/.dev: .venv/.run
	$(call install,-c constraints.txt -e '.[dev]')
	@touch $@
