#!/bin/sh
#SBATCH --job-name=bitmar
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# One recipe as a Slurm job:  sbatch recipes/slurm.sh recipes/bitmar-14m.yaml --set stages.train.training.steps=6900
# One agent on each machine (recipes/multi_node.sh); a job that is requeued goes on from its last checkpoint.
set -eu
export NODES="$SLURM_JOB_NUM_NODES" GPUS="${SLURM_GPUS_ON_NODE:-1}" RUN="$SLURM_JOB_ID"
HEAD="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 40000))"
export HEAD
exec srun --kill-on-bad-exit=1 sh recipes/multi_node.sh "$@"
