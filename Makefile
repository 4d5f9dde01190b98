# make demo      a caption for a sample photograph; installs no PyTorch
# make test      everything that continuous integration checks
# make sanitize  the native engine under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)
# make fuzz      FUZZ_SECONDS of broken .bitmar files and photographs, by default 60
# make neon      the Arm kernels, cross-compiled and run by qemu
# make bench     the figures of benchmarks/
# make compat    the checkpoint in transformers 4.51.3, in a .venv-4.51 of its own
# make clean

PYTHON ?= python3
TORCH ?= torch==2.13.0
PHOTO ?= $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('skimage').submodule_search_locations[0])")/data/astronaut.png
FUZZ_SECONDS ?= 60

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
NATIVE := CMakeLists.txt $(wildcard native/*.h native/*.cpp)
NAME_ENGINE = $(BIN)/python -c 'import bitmar._native' 2> /dev/null || \
  echo 'The native engine did not compile (pip install -v . says why): bitmar runs on numpy, many times slower.'

.PHONY: demo test sanitize fuzz neon bench compat clean

demo: $(VENV)/base.stamp
	$(BIN)/bitmar caption "$(PHOTO)"

test: $(VENV)/full.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

sanitize: $(VENV)/full.stamp $(VENV)/cmake.stamp
	scripts/sanitize.sh $(BIN)/python

neon: $(VENV)/cmake.stamp
	PATH="$(abspath $(BIN)):$$PATH" scripts/neon.sh

# libFuzzer's options go to the scripts as they are; what breaks one is left in build/fuzz.
fuzz: $(VENV)/base.stamp
	$(PIP) atheris
	@set -e; for target in container photo; do \
	  echo "== $$target"; mkdir -p build/fuzz/$$target; \
	  $(BIN)/python tests/fuzz/fuzz_$$target.py -max_total_time=$$(($(FUZZ_SECONDS) / 2)) \
	    -artifact_prefix=build/fuzz/$$target- build/fuzz/$$target; \
	done

bench: $(VENV)/full.stamp
	@set -e; for benchmark in benchmarks/[!_]*.py; do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

compat: $(VENV)/full.stamp
	scripts/compat.sh $(BIN)/python

clean:
	rm -rf $(VENV) .venv-4.51 build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The install is editable: only a change of the dependencies or of the native engine makes a stamp stale. scikit-image
# brings the photograph.
$(VENV)/base.stamp: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable . scikit-image
	@$(NAME_ENGINE)
	touch $@

# torch first and pinned: the builds that newer vision packages ask for would pull another one. What this installs is
# all that the other stamp stands for, so nothing is compiled twice.
$(VENV)/full.stamp: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable '.[train,vision,eval,serve,plots,dev]' $(TORCH)
	@$(NAME_ENGINE)
	touch $(VENV)/base.stamp $@

# For builds past pip; pip brings its own.
$(VENV)/cmake.stamp:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) cmake nanobind
	touch $@
