# make demo      captions of four sample photographs, or PHOTO="mine.jpg yours.jpg"; installs no PyTorch
# make test      ruff, clang-format, mypy and pytest
# make tidy      clang-tidy over the native engine
# make sanitize  the native engine under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)
# make fuzz      FUZZ_SECONDS of broken models, photos, memories, shards, recipes and options, by default 60
# make neon      the Arm kernels, cross-compiled and run by qemu
# make bench     the figures of benchmarks/
# make figures the figures of README and docs/, written from docs/figures.json; MEASURE='bench recall' first measures these
# make web       web/dist: the model in a browser, a folder for any static host, and the package bitmar-web
# make docs      the site of docs/, in build/site
# make wheel     a wheel in dist/, installed into an empty environment and asked for a caption
# make compat    the model's tests in transformers 4.51.3, in the locked release and in the newest
# make mutants   faults put in one at a time, tests/mutants.toml: which of them no test notices; ONLY='memory.cpp' picks some
# make update    locks the newest releases that pyproject.toml allows, in requirements/; BELOW="PACKAGE<VERSION ..." holds one back
# make clean

export PYTHON ?= python3
export BITMAR_DATA ?= $(abspath $(wildcard ../shared/data))
PHOTO ?=
FUZZ_SECONDS ?= 60
BELOW ?=
ONLY ?=

# of scikit-image, in the public domain or CC0
SAMPLES := astronaut.png chelsea.png coffee.png rocket.jpg

VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard native/*.h native/*.cpp)
INSTALL := pyproject.toml scripts/install.sh requirements/build.txt $(NATIVE)

.PHONY: demo test tidy sanitize fuzz neon web bench figures docs wheel compat mutants update clean

demo: $(VENV)/demo.stamp
	@if [ -e "$(PHOTO)" ]; then set -- "$(PHOTO)"; else set -- $(PHOTO); fi; \
	if [ $$# = 0 ]; then set -- $(SAMPLES); cd "$$($(BIN)/python -c 'import skimage; print(skimage.__path__[0])')/data"; fi; \
	"$(CURDIR)/$(BIN)/bitmar" caption "$$@"

test: $(VENV)/full.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror native/*.[hc]* native/tests/*.cpp
	$(BIN)/mypy
	$(BIN)/pytest

# compile_commands.json is what CMake will compile here: the instruction sets of this processor family.
tidy: $(VENV)/full.stamp
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/tidy -DBITMAR_PYTHON=OFF
	grep -o '"file": "[^"]*' build/tidy/compile_commands.json | cut -d'"' -f4 | \
	  xargs -n 1 -P "$$(nproc)" $(BIN)/clang-tidy --quiet -p build/tidy

sanitize: $(VENV)/full.stamp
	scripts/sanitize.sh $(BIN)/python

neon: $(VENV)/demo.stamp
	PATH="$(abspath $(BIN)):$$PATH" scripts/neon.sh

fuzz: $(VENV)/fuzz.stamp
	scripts/fuzz.sh $(BIN)/python $(FUZZ_SECONDS)

bench: $(VENV)/full.stamp
	@set -e; for benchmark in benchmarks/[!_]*.py; do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

figures: $(VENV)/full.stamp
	$(BIN)/python benchmarks/figures.py $(MEASURE)

web: build/zig/stamp
	build/zig/bin/python scripts/web.py

docs: build/docs/stamp
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict

wheel:
	scripts/wheel.sh

compat: $(VENV)/full.stamp
	scripts/compat.sh $(BIN)/python

mutants: $(VENV)/full.stamp
	$(BIN)/python scripts/mutants.py $(ONLY)

update:
	scripts/update.sh $(BELOW)

clean:
	rm -rf $(VENV) build dist web/dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The install is editable: only a change of the dependencies or of the native engine makes a stamp stale.
$(VENV)/demo.stamp: $(INSTALL) requirements/demo.txt
	scripts/install.sh $(VENV) demo
	touch $@

# What this installs is all that the other stamp stands for, so nothing is compiled twice.
$(VENV)/full.stamp: $(INSTALL) requirements/full.txt requirements/torch.txt
	scripts/install.sh $(VENV) full
	touch $(VENV)/demo.stamp $@

$(VENV)/fuzz.stamp: $(VENV)/demo.stamp requirements/fuzz.txt
	$(BIN)/pip install --no-deps -r requirements/fuzz.txt
	touch $@

# Environments of their own: none of these tools is needed to run or test the package.
build/docs/stamp: requirements/docs.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/pip install --no-deps --require-hashes -r requirements/docs.txt
	touch $@

build/zig/stamp: requirements/web.txt
	$(PYTHON) -m venv build/zig
	build/zig/bin/pip install --no-deps --require-hashes -r requirements/web.txt
	touch $@
