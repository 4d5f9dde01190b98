#!/usr/bin/env bash
# The model's tests in three releases of transformers: the oldest that is supported (the BabyLM pipeline pins it), the locked
# one and the newest; and between them the same logits, texts and scores from one checkpoint.
#   scripts/compat.sh [PYTHON]    PYTHON has the locked release and all that tests need; by default .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."

locked=$(realpath -s "${1:-.venv/bin/python}")
oldest=4.51.3
work=build/compat
tests=(tests/model tests/test_export.py tests/evaluate/tasks/babylm/test_conformance.py)
mkdir -p $work

# A virtual environment that has a transformers of its own, and all else (the same torch: its bits can be compared) from PYTHON's.
environment() {  # NAME REQUIREMENT
  local venv=$work/$1
  if [ ! -e "$venv/bin/pip" ]; then
    "$locked" -m venv "$venv"
    "$locked" -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
      > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
  fi
  echo "== $venv: $2"
  "$venv/bin/pip" --disable-pip-version-check install --no-compile --upgrade --upgrade-strategy only-if-needed "$2"
}

version() { "$1" -c 'import transformers; print(transformers.__version__)'; }

status=0 lines=()
run() {  # WHAT PYTHON OTHER: the tests in PYTHON, and those between two releases with OTHER as the second
  local number log summary
  number=$(version "$2") log=$work/$1.log
  echo "== transformers $number, $1: $log"
  if BITMAR_COMPAT_PYTHON=$3 "$2" -m pytest -p no:cacheprovider "${tests[@]}" > "$log" 2>&1; then
    summary=passes
  else
    summary="FAILS, see $log" status=1
  fi
  lines+=("transformers $number ($1) $summary: $(tail -n 1 "$log" | tr -d '=')")
}

environment oldest "transformers==$oldest"
environment newest transformers
old=$PWD/$work/oldest/bin/python new=$PWD/$work/newest/bin/python
run oldest "$old" ""  # what is compared between it and the others, these runs compare
run locked "$locked" "$old"
if [ "$(version "$new")" = "$(version "$locked")" ]; then
  lines+=("transformers $(version "$new") (newest) is the locked one")
else
  run newest "$new" "$old"
fi
printf '%s\n' "${lines[@]}"
exit $status
