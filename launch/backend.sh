# Read by torchrun.sh and slurm.sh: the environment that `accelerate launch` makes of zero1.yaml ... fsdp2.yaml.
#     . launch/backend.sh ddp|zero1|zero2|zero3|fsdp2
case "${1:-ddp}" in
  ddp) ;;
  zero[123])
    export ACCELERATE_USE_DEEPSPEED=true ACCELERATE_DEEPSPEED_ZERO_STAGE="${1#zero}"
    export ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE=none ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE=none
    export ACCELERATE_DEEPSPEED_ZERO3_INIT=false
    ;;
  fsdp2)
    export ACCELERATE_USE_FSDP=true FSDP_VERSION=2 FSDP_AUTO_WRAP_POLICY=NO_WRAP FSDP_RESHARD_AFTER_FORWARD=true
    export FSDP_OFFLOAD_PARAMS=false FSDP_CPU_RAM_EFFICIENT_LOADING=false
    ;;
  *)
    echo "BACKEND=$1: there is none of this name; use ddp, zero1, zero2, zero3 or fsdp2" >&2
    exit 2
    ;;
esac
