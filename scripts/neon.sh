#!/usr/bin/env bash
# The Arm kernels on this machine: cross-compiled, then checked by qemu on a processor without and one with dot products.
#   scripts/neon.sh    needs cmake, aarch64-linux-gnu-g++ and qemu-aarch64-static
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in aarch64-linux-gnu-g++ qemu-aarch64-static; do
  if ! command -v "$tool" > /dev/null; then
    echo "make neon needs $tool. On Debian or Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2
    exit 1
  fi
done

cmake -S . -B build/neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
  -DBITMAR_PYTHON=OFF -DBITMAR_TESTS=ON > /dev/null
cmake --build build/neon --parallel "$(getconf _NPROCESSORS_ONLN)"
for cpu in cortex-a72 cortex-a76; do  # Armv8.0, as in a Raspberry Pi 4; Armv8.2 with dot products, as in a Pi 5
  echo "== $cpu"
  qemu-aarch64-static -cpu "$cpu" build/neon/check_kernels
  qemu-aarch64-static -cpu "$cpu" build/neon/check_convolutions
done
