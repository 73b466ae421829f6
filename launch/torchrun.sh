#!/usr/bin/env bash
# Plain torchrun, without a configuration file.
#     one machine:  launch/torchrun.sh FILE [--set KEY=VALUE ...]
#     K machines:   NNODES=K NODE_RANK=0 MASTER_ADDR=ADDRESS_OF_RANK_0 launch/torchrun.sh FILE     (NODE_RANK 0 to K-1)
#     the CPU:      NPROC=2 launch/torchrun.sh FILE
#     sharded:      BACKEND=zero2 launch/torchrun.sh FILE
# If a process fails, all restart from the newest checkpoint, at most MAX_RESTARTS times.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/backend.sh" "${BACKEND:-ddp}"

# Seconds from SIGTERM to SIGKILL, for the last step and its checkpoint. A torch without `torchrun --shutdown-timeout`
# keeps to 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}"

if [[ ${NNODES:-1} == 1 ]]; then
  place=(--standalone --local-addr 127.0.0.1) # any free port, and no need for a name of this machine
else
  place=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi
exec torchrun "${place[@]}" --nproc-per-node "${NPROC:-gpu}" --max-restarts "${MAX_RESTARTS:-10}" --monitor-interval 1 \
  -m sr train "$@"
