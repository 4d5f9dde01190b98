#!/usr/bin/env bash
# A wheel for this machine in dist/, built with the tools that requirements/build.txt locks, then installed into an empty
# environment and asked for a caption.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=build/wheel/tools empty=build/wheel/empty
pip() { "$1/bin/python" -m pip --disable-pip-version-check "${@:2}"; }

rm -rf build/wheel
"${PYTHON:-python3}" -m venv "$tools"
pip "$tools" install --quiet --no-deps --require-hashes -r requirements/build.txt
PATH="$PWD/$tools/bin:$PATH" BITMAR_REQUIRE_NATIVE=1 \
  pip "$tools" wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel/dist .

"${PYTHON:-python3}" -m venv "$empty"
pip "$empty" install --quiet --no-deps --require-hashes --no-build-isolation -r requirements/demo.txt
pip "$empty" install --quiet --no-deps --no-index build/wheel/dist/bitmar-*.whl

cd "$empty"  # away from the sources
bin/python -c 'import bitmar, bitmar._native; assert "site-packages" in bitmar.__file__, bitmar.__file__'
bin/bitmar doctor
bin/bitmar caption "$(bin/python -c 'import skimage; print(skimage.__path__[0])')/data/chelsea.png"
cd - > /dev/null
mkdir -p dist
mv build/wheel/dist/bitmar-*.whl dist/
ls -l dist/bitmar-*.whl
