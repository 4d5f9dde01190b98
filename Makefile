# make demo   a caption for a sample photograph; installs no PyTorch
# make test   everything that continuous integration checks
# make bench  the figures of benchmarks/
# make compat the checkpoint in transformers 4.51.3, in a .venv-4.51 of its own
# make clean

PYTHON ?= python3
TORCH ?= torch==2.13.0
PHOTO ?= $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('skimage').submodule_search_locations[0])")/data/astronaut.png

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test bench compat clean

demo: $(VENV)/base.stamp
	$(BIN)/bitmar caption "$(PHOTO)"

test: $(VENV)/full.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(VENV)/full.stamp
	@set -e; for benchmark in benchmarks/[!_]*.py; do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

compat: $(VENV)/full.stamp
	scripts/compat.sh $(BIN)/python

clean:
	rm -rf $(VENV) .venv-4.51 build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The install is editable, so only a change of the dependencies makes a stamp stale. scikit-image brings the photograph.
$(VENV)/base.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable . scikit-image
	touch $@

# torch first and pinned: the builds that newer vision packages ask for would pull another one.
$(VENV)/full.stamp: $(VENV)/base.stamp
	$(PIP) $(TORCH)
	$(PIP) --editable '.[train,vision,eval,serve,plots,dev]' $(TORCH)
	touch $@
