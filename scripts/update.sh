#!/usr/bin/env bash
# Locks the newest releases that pyproject.toml allows, for Python 3.11 on Linux (x86_64), in requirements/*.txt.
#   scripts/update.sh [PACKAGE<VERSION...]    what is to stay below a version
# torch moves by hand, in requirements/torch.txt. Its CPU build is wanted while the others are resolved: where it is not
# the one that pip finds, UV_TORCH_BACKEND=cpu in the environment says so.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=build/update
[ -x $venv/bin/uv ] || { python3 -m venv $venv && $venv/bin/pip install uv; }
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}  # uv reads none of pip's settings
printf '%s\n' "$@" > $venv/below.txt

compile() {  # NAME ARGUMENT...: write requirements/NAME.txt
  local out=requirements/$1.txt
  shift
  echo "== $out"
  $venv/bin/uv pip compile --quiet --native-tls --upgrade --generate-hashes --no-annotate \
    --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --custom-compile-command "make update" \
    --constraint requirements/torch.txt --constraint $venv/below.txt --no-emit-package torch --output-file "$out" "$@" > /dev/null
  if grep -q '^nvidia-' "$out"; then
    echo "that was torch for CUDA: set UV_TORCH_BACKEND=cpu, or UV_FIND_LINKS to the folder of its CPU wheel" >&2
    exit 1
  fi
}

everything=(--extra train --extra vision --extra eval --extra serve --extra watch --extra heif --extra xmp --extra plots --extra cluster --extra dev)
compile full pyproject.toml "${everything[@]}" --group demo
compile demo pyproject.toml --group demo --constraint requirements/full.txt
compile serve pyproject.toml --extra serve --extra heif --constraint requirements/full.txt
compile build --group build --constraint requirements/full.txt
compile fuzz --group fuzz --constraint requirements/full.txt
compile docs --group docs --constraint requirements/full.txt
compile web --group web
