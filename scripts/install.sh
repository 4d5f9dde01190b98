#!/usr/bin/env bash
# Installs bitmar, editable, with the releases that requirements/*.txt lock.
#   scripts/install.sh VENV demo|full    demo: what a caption needs, and a photo; full: all extras, with torch
# VENV is made with $PYTHON (python3) where there is none. A Python other than the locks' gets what pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1 set=$2
locked_for=cpython-3.11-linux-x86_64
step() { echo "== $*"; }
# Bytecode is written when a module is first imported: of most modules here never.
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --no-compile "$@"; }

if [ ! -x "$venv/bin/python" ]; then
  step "a virtual environment in $venv"
  "${PYTHON:-python3}" -m venv "$venv"
fi
here=$("$venv/bin/python" -c 'import platform as p, sys
print(sys.implementation.name, "%d.%d" % sys.version_info[:2], sys.platform, p.machine(), sep="-")')

if [ "$here" = "$locked_for" ]; then
  step "the tools that build, requirements/build.txt"
  pip --no-deps --require-hashes -r requirements/build.txt
  step "what bitmar needs, requirements/$set.txt"
  pip --no-deps --require-hashes --no-build-isolation -r "requirements/$set.txt"
  if [ "$set" = full ]; then
    step "torch, requirements/torch.txt"
    pip -r requirements/torch.txt
  fi
  step "bitmar, with its native engine"
  pip --no-deps --no-build-isolation --editable .
else
  echo "requirements/ is for $locked_for, this is $here: pip now chooses among the releases that pyproject.toml allows."
  step "bitmar and what it needs"
  case $set in
    demo) pip --editable . scikit-image ;;
    full)
      # torch first and pinned: the builds that newer vision packages ask for would pull another one.
      pip -r requirements/torch.txt
      pip --editable '.[train,vision,eval,serve,watch,heif,xmp,plots,cluster,dev]' cmake nanobind -r requirements/torch.txt
      ;;
  esac
fi
"$venv/bin/python" -c 'import bitmar._native' 2> /dev/null ||
  echo 'The native engine did not compile (pip install -v . says why): bitmar runs on numpy, many times slower.'
