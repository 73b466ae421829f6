"""A player: one module, one optimizer, one schedule, one engine. Only this file and dist.py know accelerate.

accelerate places the processes and exchanges gradients. Mixed precision is ours (autocast in the engine, a gradient
scaler here), because a discriminator used as a fixed critic is called past the wrapper that accelerate would
autocast, and because accelerate's scaler refuses fp16 on a CPU, where it has to be tested.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from torch import Tensor, nn

from sr import dist
from sr.errors import UserError
from sr.schedules import Schedule

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def accelerator() -> Accelerator:
    """The processes as launched, or a UserError when the launch is not what its environment says.

    Several launch lines start fewer processes than asked, or as many that never talk; both train wrong in silence.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true" or os.environ.get("ACCELERATE_USE_FSDP"):
        raise UserError(
            "this version trains on one process or with DDP; choose --multi_gpu in the accelerate launch line"
        )
    made = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    wrapped = made.distributed_type in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if made.num_processes != asked or (asked > 1 and not wrapped):
        raise UserError(
            f"the launcher asked for {asked} processes and {made.num_processes} came together "
            f"({made.distributed_type.value}); on CPU start them with "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    if made.device.type == "cpu":
        _share_cores()
    return made


def _share_cores() -> None:
    """Every process computes on its share of the cores: launchers set OMP_NUM_THREADS=1 where nobody asked for more."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def choose_precision(asked: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware of every rank multiplies it faster than fp32, else fp32. Collective."""
    if asked != "auto":
        return asked
    found = dist.gather(_fastest(device))
    if len(set(found)) > 1:
        raise UserError(f"train.precision: auto is {sorted(set(found))} on different ranks; set it to one of them")
    return found[0]


def _fastest(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if amx() or bf16() else "fp32"


class Player:
    """Updates one module. `module` is what the task calls; `raw` is the net itself."""

    def __init__(
        self,
        *,
        name: str,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        accelerator: Accelerator,
        precision: str = "fp32",
        clip_norm: float | None = None,
    ) -> None:
        self.name, self.raw, self.optimizer, self.schedule = name, net, optimizer, schedule
        self.module: nn.Module = accelerator.prepare_model(net) if accelerator.num_processes > 1 else net
        self.accelerator, self.clip_norm = accelerator, clip_norm
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=precision == "fp16")
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]

    def quiet(self, last: bool) -> AbstractContextManager[None]:
        """No gradient exchange inside an accumulation window; must enclose the forward too."""
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def update(self, loss: Tensor, *, step: int, last: bool, measure: bool = False) -> Tensor | None:
        """Backward; at the end of the window also clip and step. Returns the gradient norm if clipping or `measure`."""
        self.scaler.scale(loss).backward()
        if not last:
            return None
        norm = None
        if self.clip_norm is not None or measure:
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.raw.parameters(), self.clip_norm or float("inf"))
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = self.schedule(base, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Tensor]:
        """Everything to continue from, by the names of the parameters: `model/<name>`, `<moment>/<name>`."""
        state = {f"model/{name}": value for name, value in self.raw.state_dict().items()}
        for name, parameter in self.raw.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                state[f"{moment}/{name}"] = torch.as_tensor(value)
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["scaler/scale"] = torch.tensor(float(scaler["scale"]), dtype=torch.float64)
            state["scaler/tracker"] = torch.tensor(int(scaler["_growth_tracker"]))
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. Raises ValueError naming what does not fit."""
        model = {key.removeprefix("model/"): value for key, value in state.items() if key.startswith("model/")}
        try:
            self.raw.load_state_dict(model)
        except RuntimeError as error:
            raise ValueError(str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)) from None
        parameters = dict(self.raw.named_parameters())
        for key, value in state.items():
            moment, _, name = key.partition("/")
            if moment not in ("model", "scaler"):
                self.optimizer.state[parameters[name]][moment] = _like(parameters[name], value)
        if self.scaler.is_enabled() and "scaler/scale" in state:
            scaler = self.scaler.state_dict()
            scaler |= {"scale": float(state["scaler/scale"]), "_growth_tracker": int(state["scaler/tracker"])}
            self.scaler.load_state_dict(scaler)


def _like(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """A moment laid out in memory like its parameter (the fused optimizer needs both alike)."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
