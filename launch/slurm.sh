#!/usr/bin/env bash
# A run on many machines under Slurm. It outlives preemption, the time limit and lost machines.
#     sbatch --nodes 4 launch/slurm.sh options/realesrgan_x4.yml [--set KEY=VALUE ...]
#     BACKEND=zero2 sbatch launch/slurm.sh FILE          (ddp, zero1, zero2, zero3 or fsdp2)
# Submit from the folder that holds launch/, on a disk that all machines share. `out` and the shards belong on it too.
#
# srun starts every process itself. A launcher in between would turn all exit codes into 1, so that this script could
# not tell a preemption from a mistake, and kill its processes 30 s after a signal, checkpoint or not.
#
#SBATCH --job-name=sr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#
# One job for the whole run: a requeued job keeps its number and its log.
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Five minutes before the time limit SIGTERM goes to the processes of srun, not to this shell: they finish the step,
# save and exit with 143. Preemption sends them SIGTERM too and leaves GraceTime for it (KillWait, 30 s, where the
# cluster sets none). Never send SIGTERM to srun itself: it passes it on as SIGKILL.
#SBATCH --signal=TERM@300

set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. launch/backend.sh "${BACKEND:-ddp}"

read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) WORLD_SIZE=$SLURM_NTASKS
export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))
# Where machines have several networks, or their names mean 127.0.0.1 (a process then waits for itself):
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

trap : TERM # the end of GraceTime reaches this shell too: it still has to decide below
code=0
# After the first process ends, the others have two minutes to detect it and to report the cause. Ending them at once
# (--kill-on-bad-exit) would put the code of the kill above the code of the cause: srun returns the highest.
srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec python -m sr train "$@"' sr "$@" || code=$?

case $code in
  0) exit 0 ;;
  2 | 3 | 70) # a mistake in what was asked, a loss that is not finite, a defect: the next start would end alike
    echo "slurm.sh: exit code $code; not requeued" >&2
    exit "$code"
    ;;
  143) ;; # saved after SIGTERM: as often as it takes
  *)
    if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_REQUEUES:-20})); then
      echo "slurm.sh: exit code $code after $SLURM_RESTART_COUNT starts; not requeued" >&2
      exit "$code"
    fi
    ;;
esac
echo "slurm.sh: exit code $code; requeued, to resume from the newest checkpoint" >&2
scontrol requeue "$SLURM_JOB_ID"
exit "$code"
