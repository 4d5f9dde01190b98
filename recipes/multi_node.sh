#!/bin/sh
# One recipe on several machines: run this line on each of them, with the same arguments.
#
#   NODES=4 GPUS=8 HEAD=node0:29500 sh recipes/multi_node.sh recipes/bitmar-14m.yaml --set stages.train.training.steps=6900
#
# HEAD is any one of the machines, with a free port; without it this machine trains alone. Either `output` lies on a disk that
# all share, or the recipe says `checkpoints: s3://bucket/run` (docs/cluster.md). Every process trains on batches of its own, so
# 32 of them see 32 times as much in a step: divide the recipe's steps.
#
# A process that dies is started again with all others, from the last checkpoint; so is a machine, when this line runs on it
# again or on one in its place, within WAIT seconds. Should HEAD itself be lost, run the line on every machine again.
set -eu
: "${NODES:=1}" "${GPUS:=1}" "${HEAD:=127.0.0.1:29500}" "${RESTARTS:=10}" "${WAIT:=3600}"
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # or a machine that is new meets a group that still speaks of the old one
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --max-restarts "$RESTARTS" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${RUN:-bitmar}" --rdzv-conf "join_timeout=$WAIT" \
    -m bitmar train "$@"
