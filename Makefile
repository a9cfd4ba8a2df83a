# Needs Python 3.11 or later and make, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Each test with one thread: networks this small do not gain from a second. How many run at a
# time is in tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

SPREAD := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart install test test-fast test-ui soak check docs bench clean

help:
	@echo "make quickstart  install into .venv and merge a classifier and a detector (no GPU, no account)"
	@echo "make install     the project with the dev and docs extras into .venv"
	@echo "make test        install the dev extras and run all tests"
	@echo "make test-fast   only the tests that need no real images and kill no processes"
	@echo "make test-ui     the quickstart's pages in a real browser (needs Debian's chromium)"
	@echo "make soak        two hundred rounds of the watch, with all that may go wrong (ten minutes)"
	@echo "make check       ruff and mypy"
	@echo "make docs        the documentation as a site in build/docs; a broken link stops it"
	@echo "make bench       speed, accuracy and memory of the statistics (reads MERGE_SEARCH_DATA)"
	@echo "make clean       remove .venv and what runs wrote"

quickstart: $(VENV)/.installed
	$(BIN)/merge-search run runs/quickstart.yaml
	@echo
	@echo "Compare the candidates in MLflow:  $(BIN)/merge-search ui runs/quickstart.yaml"
	@echo "and open the address that it prints."

install: $(VENV)/.installed-dev $(VENV)/.installed-docs

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not ui" $(SPREAD)

test-fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not ui and not data and not durability" $(SPREAD)

test-ui: $(VENV)/.installed-dev
	$(PYTEST) -m ui

soak: $(VENV)/.installed-dev
	MERGE_SEARCH_SOAK_ROUNDS=200 $(PYTEST) tests/integration/test_watch_soak.py --durations=1

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/site/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f docs/site/mkdocs.yml
	@echo "Open build/docs/index.html; for the search box: python3 -m http.server -d build/docs"

bench: $(VENV)/.installed-dev
	@$(PIP) -e ".[bench]"
	$(BIN)/python bench/similarity.py

clean:
	rm -rf $(VENV) runs/out runs/cache build dist

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed, this is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch is large; a few minutes the first time)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the dev extras"
	@$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing the docs extra"
	@$(PIP) -e ".[docs]"
	@touch $@
