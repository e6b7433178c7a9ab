# Every target sets up .venv by itself, and again only when pyproject.toml changes. Needs python3 >= 3.11 with venv.
#   make book | grid | test | lab | bench | lint | env | clean | reference | verify
#   TIER=smoke|laptop|gpu|paper      PYTHON=python3.12      FRESH=1 (book: everything anew)      N=3 (verify: runs)
PYTHON ?= python3
TIER ?= laptop
TIERS := smoke laptop gpu paper
VENV := .venv
RUN := $(VENV)/bin/python
NOTEBOOKS := $(wildcard chapters/*.ipynb)

ifneq ($(words $(TIER)) $(filter $(TIERS),$(TIER)),1 $(TIER))
$(error TIER = $(TIER) cannot be used; accepted: $(TIERS))
endif

.PHONY: book grid test lab bench lint env clean reference verify
.DEFAULT_GOAL := book

book: $(VENV)/.book
	@$(RUN) -m mastlib.book --tier $(TIER) $(if $(FRESH),--fresh)

# What the book trains, a process for each run: JOBS at a time.
grid: $(VENV)/.book
	@$(RUN) -m mastlib.grid run --tier $(TIER) $(if $(JOBS),--jobs $(JOBS))

# What ships with the package: of the runs that are there, those of the book at TIER.
reference: $(VENV)/.book
	@$(RUN) -m mastlib.reference make --tier $(TIER)

# N of them trained again, and compared.
verify: $(VENV)/.book
	@$(RUN) -m mastlib.reference verify --tier $(TIER) -n $(or $(N),3)

lab: $(VENV)/.book
	@$(RUN) -m jupyterlab chapters

bench: $(VENV)/.bench
	@for script in $(sort $(filter-out benchmarks/search.py,$(wildcard benchmarks/*.py))); do echo "== $$script"; $(RUN) $$script || exit 1; done

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m codespell_lib
ifneq ($(NOTEBOOKS),)
	$(RUN) -m nbstripout --keep-id --verify $(NOTEBOOKS)
endif

test: lint
	$(RUN) -m pytest

env: $(VENV)/.test

# Compiled once: torch and what is around it takes seconds longer to import where each process compiles it anew.
# Stamps: what the book needs; what its tests, linters and the image bank's builder need on top; what it is compared with.
$(VENV)/.book: EXTRAS :=
$(VENV)/.test: EXTRAS := [test,dev,data,cluster]
$(VENV)/.bench: EXTRAS := [test,bench]
$(VENV)/.book $(VENV)/.test $(VENV)/.bench: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo '$(PYTHON) is no Python of at least 3.11; choose another: make PYTHON=python3.12 $(or $(MAKECMDGOALS),book)'; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) -e '.$(EXTRAS)'
	@touch $@

# outputs/reference/ holds result tables worth keeping; everything else there can be made again.
clean:
	@if [ -d outputs ]; then find outputs -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +; fi
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
