#!/usr/bin/env bash
# The native engine under AddressSanitizer and UndefinedBehaviorSanitizer: the kernels' check program, then the Python tests.
#   scripts/sanitize.sh [PYTHON]    PYTHON has nanobind, pytest and what the tests need; by default .venv/bin/python
# Needs gcc, and cmake on the PATH or beside PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-.venv/bin/python}
export PATH="$(dirname "$python"):$PATH" CXX="${CXX:-g++}"
build=build/sanitize
nanobind=$("$python" -m nanobind --cmake_dir)
rm -rf "$build/stage" "$build/CMakeCache.txt"
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g" -DBITMAR_SANITIZE=ON -DBITMAR_TESTS=ON \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" -Dnanobind_DIR="$nanobind" > /dev/null
cmake --build "$build" --parallel "$(getconf _NPROCESSORS_ONLN)"
mkdir -p "$build/stage"
cp -R src/bitmar "$build/stage/"
rm -f "$build"/stage/bitmar/_native*.so  # one built in place is not the one to test
cmake --install "$build" --prefix "$build/stage" > /dev/null

export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
echo "== check programs"
ctest --test-dir "$build" --output-on-failure

# The interpreter is not instrumented, so the runtimes come first; libstdc++ too, or exceptions are not intercepted.
# -S leaves out the .pth file of the editable install, which would put its own module before the sanitized one.
export LD_PRELOAD="$("$CXX" -print-file-name=libasan.so) $("$CXX" -print-file-name=libstdc++.so)"
export PYTHONPATH="$PWD/$build/stage:$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"$python" -S -c 'import bitmar._native as n, sys; sys.exit("build/sanitize" not in n.__file__)'
echo "== Python tests"
"$python" -S -m pytest -p no:cacheprovider tests/runtime/test_native*.py
