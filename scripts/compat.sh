#!/usr/bin/env bash
# Checks that a checkpoint loads in the oldest transformers that is supported (the BabyLM pipeline pins it) with the same
# logits, and gets the pipeline's scores there.
#   scripts/compat.sh [PYTHON]    PYTHON runs the tests, by default .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-.venv/bin/python}
venv=.venv-4.51
if [ ! -e "$venv/ready" ]; then
  "$python" -m venv "$venv"
  # torch first, in the version of the tests: the same torch makes "the same logits" a question of bits.
  torch=$("$python" -c 'import importlib.metadata as m; print(m.version("torch").split("+")[0])')
  "$venv/bin/pip" install --quiet --disable-pip-version-check "torch==$torch"
  "$venv/bin/pip" install --quiet --disable-pip-version-check transformers==4.51.3 pillow numpy
  touch "$venv/ready"
fi
BITMAR_COMPAT_PYTHON="$PWD/$venv/bin/python" "$python" -m pytest tests/model/test_compat.py tests/evaluate/babylm/test_conformance.py
