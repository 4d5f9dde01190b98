#!/bin/sh
# One recipe on several machines: run this line on each of them, with the same arguments.
#
#   NODES=4 GPUS=8 HEAD=node0:29500 sh recipes/multi_node.sh recipes/bitmar-14m.yaml --set stages.train.training.steps=6900
#
# HEAD is any one of the machines, with a free port. `output` and `cache` must lie on a disk that all share: the first process
# prepares the data while the others wait, and it alone writes checkpoints. Every process trains on batches of its own, so
# 32 of them see 32 times as much in a step: divide the recipe's steps. Stopped, the same line goes on from the last checkpoint.
set -eu
: "${NODES:?how many machines}" "${GPUS:?processes on each of them}" "${HEAD:?HOST:PORT of one of them}"
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --rdzv-backend c10d --rdzv-endpoint "$HEAD" \
    -m bitmar train "$@"
