"""A player of a task: one module with its optimizer, schedule and distributed backend.

Mixed precision is implemented here (autocast in the trainer, a gradient scaler in this file) instead of in accelerate:
a discriminator used as a fixed critic is called without the wrapper that accelerate would autocast, and accelerate's
scaler refuses fp16 on a CPU, where it is tested.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.distributed import comm
from sr.distributed.backends import Launch, wrap
from sr.nets.device import fast_half_types
from sr.train.schedules import Schedule

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(asked: str, device: torch.device) -> str:
    """Return the precision to train in; `auto` is the fastest type that all ranks support. Collective."""
    if asked != "auto":
        return asked
    found = comm.gather(_fastest(device))
    if len(set(found)) > 1:
        raise UserError(f"train.precision: auto is {sorted(set(found))} on different ranks; set it to one of them")
    return found[0]


def _fastest(device: torch.device) -> str:
    types = fast_half_types(device)
    return "bf16" if torch.bfloat16 in types else "fp16" if torch.float16 in types else "fp32"


class ModelOptimizer:
    """Updates one module. `module`: what the task calls; `raw`: the network itself; `backend`: how it is distributed.

    keep: see `sr.distributed.backends.wrap`.
    """

    def __init__(
        self,
        *,
        name: str,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        accelerator: Accelerator,
        launch: Launch,
        precision: str = "fp32",
        clip_norm: float | None = None,
        accumulate: int = 1,
        keep: bool = False,
    ) -> None:
        self.name, self.optimizer, self.schedule = name, optimizer, schedule
        self.accelerator, self.clip_norm = accelerator, clip_norm
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=precision == "fp16")
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.backend = wrap(
            name,
            net,
            optimizer,
            launch=launch,
            accelerator=accelerator,
            precision=precision,
            limit=clip_norm,
            accumulate=accumulate,
            keep=keep,
        )
        self.raw, self.module = net, self.backend.module

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        """Skip the gradient exchange inside an accumulation window; must enclose the forward pass too."""
        return self.backend.no_sync(last)

    def update(self, loss: Tensor, *, step: int, last: bool, measure: bool = False) -> Tensor | None:
        """Run backward; at the end of the window also clip and step. Returns the gradient norm where it is measured."""
        self.backend.backward(self.scaler.scale(loss), last=last)
        return self.finish(step=step, measure=measure) if last else None

    def finish(self, *, step: int, measure: bool = False) -> Tensor | None:
        """Clip and step with the gradients of the whole window. Returns the gradient norm where it is measured."""
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = self.schedule(base, step)
        return self.backend.step(self.scaler, limit=self.clip_norm, measure=measure)

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Tensor]:
        """Return the state to resume from, by parameter name: `model/<name>`, `<optimizer state>/<name>`. Collective.

        It is the same for every backend and number of processes, and complete on rank 0.
        """
        state = self.backend.state()
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["scaler/scale"] = torch.tensor(float(scaler["scale"]), dtype=torch.float64)
            state["scaler/tracker"] = torch.tensor(int(scaler["_growth_tracker"]))
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a complete `state`, given on every rank. Raises ValueError naming what does not match."""
        self.backend.load({key: value for key, value in state.items() if not key.startswith("scaler/")})
        if self.scaler.is_enabled() and "scaler/scale" in state:
            scaler = self.scaler.state_dict()
            scaler |= {"scale": float(state["scaler/scale"]), "_growth_tracker": int(state["scaler/tracker"])}
            self.scaler.load_state_dict(scaler)
