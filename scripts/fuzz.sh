#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz for its share of the time, and counts the inputs.
#   scripts/fuzz.sh [PYTHON [SECONDS]]    PYTHON has atheris; by default .venv/bin/python and 60
# What breaks a target is left in build/fuzz/TARGET-*, and what libFuzzer said in build/fuzz/TARGET.log.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-.venv/bin/python} seconds=${2:-60}
targets=$("$python" -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)')
share=$((seconds / $(wc -w <<< "$targets"))) total=0 status=0
for target in $targets; do
  log=build/fuzz/$target.log
  mkdir -p "build/fuzz/$target"  # inputs that reached something new, for the next run
  broken=
  "$python" -m tests.fuzz.run "$target" -max_total_time="$((share > 0 ? share : 1))" \
    -artifact_prefix="build/fuzz/$target-" "build/fuzz/$target" > "$log" 2>&1 || broken=yes
  inputs=$(grep -oE '^#[0-9]+' "$log" | tail -n 1 | tr -d '#' || true)  # of libFuzzer's last line
  total=$((total + ${inputs:-0}))
  echo "$target: ${inputs:-0} inputs${broken:+, BROKEN: see $log}"
  if [ -n "$broken" ]; then
    grep -E -A 30 'Uncaught Python exception|ERROR: libFuzzer|ERROR: Address|^Traceback' "$log" | head -60 || tail -n 30 "$log"
    status=1
  fi
done
echo "$total inputs in all"
exit $status
