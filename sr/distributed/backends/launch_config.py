"""The configuration of `accelerate launch`, and the processes that it started.

accelerate starts and places processes but does not wrap models here. Its DeepSpeed and FSDP plugins are disabled,
because they take one model each, need a package for language models, silently fall back to DDP on a CPU, and clip
gradients without an option in the options file. The environment of `accelerate launch` is read here instead, and
`sr.distributed.backends` wraps the models.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec

import torch
import torch.distributed as td
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from sr.core.allocator import keep_memory
from sr.core.errors import UserError
from sr.distributed import comm
from sr.distributed.gpus import check_gpus

PLUGINS = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"
NAMES = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}


@dataclass(frozen=True)
class Launch:
    """How every player is distributed over the processes.

    backend: a key of NAMES; "ddp" with one process is a single process. offload_*: optimizer and parameters in host
    memory (ZeRO). wrap, wrap_size: classes, or sizes in parameters, of modules that FSDP2 gathers one at a time.
    reshard: FSDP2 frees them between forward and backward.
    """

    backend: str = "ddp"
    offload_optimizer: bool = False
    offload_parameters: bool = False
    wrap: tuple[str, ...] = ()
    wrap_size: int | None = None
    reshard: bool = True

    def __str__(self) -> str:
        return NAMES[self.backend]


def read_launch(env: Mapping[str, str] = os.environ) -> Launch:
    """Read the configuration of `accelerate launch`. Raises UserError for settings that are not supported."""
    if _on(env, "ACCELERATE_USE_MEGATRON_LM") or _on(env, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise UserError("sr trains by DDP, ZeRO and FSDP2 alone; choose one of them in the accelerate config")
    if _on(env, "ACCELERATE_USE_DEEPSPEED"):
        return _zero(env)
    if _on(env, "ACCELERATE_USE_FSDP"):
        return _fsdp(env)
    return Launch()


def _on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() in ("1", "true", "yes", "on")


def _zero(env: Mapping[str, str]) -> Launch:
    file = env.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file != "none":
        raise UserError(
            f"{file}: sr makes DeepSpeed's configuration from the options file; remove deepspeed_config_file from the "
            "accelerate config and set zero_stage there"
        )
    if find_spec("deepspeed") is None:
        raise UserError(
            "this launch asks for DeepSpeed, which is not installed; run pip install deepspeed (Linux only), or launch "
            "with launch/fsdp2.yaml, which shards without it"
        )
    stage = env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2", "3"):
        raise UserError(
            f"zero_stage {stage} shards nothing; set 1, 2 or 3 in the accelerate config, or use --multi_gpu"
        )
    devices = {what: env.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none") for what in ("OPTIMIZER", "PARAM")}
    for what, device in devices.items():
        if device not in ("none", "cpu"):
            raise UserError(f"offload_{what.lower()}_device {device} is not supported; set cpu or none")
    if devices["PARAM"] == "cpu" and stage != "3":
        raise UserError(f"offload_param_device cpu needs zero_stage 3, not {stage}; set one of them")
    return Launch(f"zero{stage}", devices["OPTIMIZER"] == "cpu", devices["PARAM"] == "cpu")


def _fsdp(env: Mapping[str, str]) -> Launch:
    version = env.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(f"fsdp_version {version} is not supported; set fsdp_version: 2 in the accelerate config")
    for name in ("OFFLOAD_PARAMS", "ACTIVATION_CHECKPOINTING"):
        if _on(env, f"FSDP_{name}"):
            raise UserError(
                f"fsdp_{name.lower()} is not supported; set it to false, or choose DeepSpeed's zero_stage 3"
            )
    policy = env.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP")
    classes = env.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "") if policy == "TRANSFORMER_BASED_WRAP" else ""
    size = int(float(env.get("FSDP_MIN_NUM_PARAMS", "1e8"))) if policy == "SIZE_BASED_WRAP" else None
    if policy == "TRANSFORMER_BASED_WRAP" and not classes:
        raise UserError(
            "fsdp_auto_wrap_policy names no class; set fsdp_transformer_layer_cls_to_wrap: RRDB, or NO_WRAP"
        )
    return Launch(
        "fsdp2",
        wrap=tuple(name.strip() for name in classes.split(",") if name.strip()),
        wrap_size=size,
        reshard=env.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false",
    )


def accelerator(launch: Launch, *, timeout: timedelta | None = None) -> Accelerator:
    """Return accelerate's Accelerator. Raises UserError where the launch differs from its environment.

    Some launch commands start fewer processes than requested, or processes that never communicate; both would train
    wrongly without a message. timeout: how long a collective may wait for another process.
    """
    left = "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"  # by accelerate's launcher of one process, if asked for several
    if _on(os.environ, "ACCELERATE_USE_CPU") and "WORLD_SIZE" not in os.environ and all(n in os.environ for n in left):
        raise UserError(
            "accelerate launch --cpu ignores --num_processes and starts one process; on CPU start them with "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    if not _on(os.environ, "ACCELERATE_USE_CPU"):
        check_gpus("train FILE")
    handlers = [DistributedDataParallelKwargs(gradient_as_bucket_view=True)]
    handlers += [InitProcessGroupKwargs(timeout=timeout)] if timeout else []
    with _hidden(PLUGINS):
        made = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=handlers)
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    wrapped = made.distributed_type in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if made.num_processes != asked or (asked > 1 and not wrapped):
        raise UserError(
            f"the launcher asked for {asked} processes but {made.num_processes} connected "
            f"({made.distributed_type.value}); on CPU start them with "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    if launch.backend != "ddp" and not td.is_initialized():  # one process still needs a process group
        td.init_process_group(
            "nccl" if made.device.type == "cuda" else "gloo", store=td.HashStore(), rank=0, world_size=1
        )
    others = [NAMES[name] for name in comm.gather(launch.backend)]
    if len(set(others)) > 1:
        raise UserError(f"the ranks were launched for {others}; start every node with the same accelerate config")
    _share_cores()
    if made.device.type == "cpu":
        keep_memory()
    return made


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= taken


def _share_cores() -> None:
    """Give every process its share of the cores: launchers set OMP_NUM_THREADS=1 by default."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
