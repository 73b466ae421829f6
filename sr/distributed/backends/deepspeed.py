"""DeepSpeed ZeRO: shards the optimizer state (stage 1), the gradients (2), and the weights (3).

The DeepSpeed engine runs backward and step only. Forward passes do not use it, because a critic is called frozen,
penalties take gradients of gradients, and mixed precision is implemented in the trainer. What the engine's forward
would prepare is prepared in `backward`.

Master weights are loaded by deepspeed.utils.safe_set_*_fp32_param. Optimizer state is not read or loaded by
safe_get/set_full_optimizer_state: before the first step, when a checkpoint is loaded, the state that they look up does
not exist; they do not reach scalars, such as the step count; and in stage 3 the setter raises where a parameter does
not divide into equal parts. So the rows are found by private attributes, and pyproject.toml pins the version range.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn

from sr.distributed import comm
from sr.distributed.backends.ddp import ReplicatedBackend, State
from sr.distributed.backends.launch_config import Launch
from sr.distributed.backends.sharded import Sharded, align, straighten

BUCKET = 50_000_000  # values per exchange at most; every player allocates a buffer of this size
SMALL = 10_000  # smaller parameters stay unsharded in stage 3: gathering costs more than keeping them

Places = dict[str, int]


class Zero(ReplicatedBackend):
    """Shared code of the stages: steps through the engine, and optimizer state in flat rows of many parameters.

    The optimizer sees one row per parameter group; scalar state, such as the step count, belongs to the whole row.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        stage: int,
        launch: Launch,
        device: torch.device,
        limit: float | None,
        accumulate: int,
    ) -> None:
        super().__init__(net, optimizer)
        straighten(net)
        self.device = device
        config = {
            "train_micro_batch_size_per_gpu": 1,  # used by its speed reports only
            "gradient_accumulation_steps": accumulate,
            "gradient_clipping": limit or 0.0,
            "steps_per_print": 1 << 60,
            "zero_optimization": _sharding(stage, launch, device, sum(shape.numel() for shape in self.shapes.values())),
            "zero_allow_untested_optimizer": True,  # see ELEMENTWISE
            "zero_force_ds_cpu_optimizer": False,  # torch's fused one is as fast and gives equal results
        }
        deepspeed = _deepspeed(device)
        self.engine = deepspeed.initialize(model=net, optimizer=optimizer, config=config, dist_init_required=False)[0]
        self.zero = self.engine.optimizer

    @property
    def way(self) -> str:
        return f"ZeRO-{int(self.engine.zero_optimization_stage())}"

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.zero.clear_backward_seen_flag()
        self.engine._backward_prologue()
        self.engine.backward(loss, scale_wrt_gas=False)  # the loss is already divided by `accumulate`

    def step(self, scaler: torch.amp.GradScaler, *, limit: float | None, measure: bool) -> Tensor | None:
        self.engine.step()
        align(self.raw)
        if limit is None and not measure:
            return None
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)

    def optimizer_state(self) -> dict[str, Tensor]:
        kept = {}
        for row, places in self.rows():
            for moment, given in self.optimizer.state.get(row, {}).items():
                if given is None:
                    continue
                value = torch.as_tensor(given)
                for name, whole in self.unpack(places, value) if value.dim() else ((name, value) for name in places):
                    if comm.is_main():
                        kept[f"{moment}/{name}"] = whole.to("cpu", copy=True)
        return kept

    def check(self, weights: State, optimizer_state: State) -> None:
        super().check(weights, optimizer_state)
        for _, places in self.rows():
            for moment in _kinds(optimizer_state):
                if not _alike([optimizer_state.get(f"{moment}/{name}") for name in places]):
                    raise ValueError(f"'{moment}' differs between parameters that {self.way} updates together")

    def load_optimizer_state(self, optimizer_state: State) -> None:
        for row, places in self.rows():
            state = {}
            for moment in _kinds(optimizer_state):
                values = {name: optimizer_state.get(f"{moment}/{name}") for name in places}
                first = next(iter(values.values()))
                if first is not None:
                    state[moment] = self.pack(row, places, values) if first.dim() else first.to(row.device, copy=True)
            self.optimizer.state[row] = state

    def rows(self) -> Iterator[tuple[Tensor, Places]]:
        """Yield this rank's rows, each with the offset of its parameters in the packed row."""
        raise NotImplementedError

    def unpack(self, places: Places, values: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the whole tensors of a row's optimizer state from all ranks. Collective."""
        raise NotImplementedError

    def pack(self, row: Tensor, places: Places, wholes: Mapping[str, Any]) -> Tensor:
        """Return this rank's row from whole tensors: the inverse of `unpack`."""
        raise NotImplementedError


class Zero12(Zero):
    """Stages 1 and 2: weights are replicated. All are in one flat buffer, and a row is this rank's slice of it."""

    def load_weights(self, weights: State) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        super().load_weights(weights)
        for name, parameter in self.parameters.items():
            safe_set_full_fp32_param(parameter, weights[name])

    def rows(self) -> Iterator[tuple[Tensor, Places]]:
        rows, lines, groups = (
            getattr(self.zero, name)
            for name in ("single_partition_of_fp32_groups", "bit16_groups_flat", "bit16_groups")
        )
        for row, line, group in zip(rows, lines, groups, strict=True):
            starts = {id(p): (p.data_ptr() - line.data_ptr()) // line.element_size() for p in group}
            yield row, {name: starts[id(p)] for name, p in self.parameters.items() if id(p) in starts}

    def unpack(self, places: Places, values: Tensor) -> Iterator[tuple[str, Tensor]]:
        line = _gather(values.to(self.device))
        for name, start in places.items():
            shape = self.shapes[name]
            yield name, line[start : start + shape.numel()].view(shape)

    def pack(self, row: Tensor, places: Places, wholes: Mapping[str, Any]) -> Tensor:
        line = torch.zeros(comm.world() * row.numel(), dtype=row.dtype)
        for name, start in places.items():
            line[start : start + wholes[name].numel()] = wholes[name].flatten()
        return line[comm.rank() * row.numel() :][: row.numel()].to(row.device, copy=True)


class Zero3(Sharded, Zero):
    """Stage 3: a parameter is sharded into equal parts, one per rank; the last one is padded."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        super().__init__(net, optimizer, **settings)
        for module in net.modules():  # gather in every backward, also in a second one through the same graph
            module.applied_pre_backward_ref_cnt = 1 << 60  # type: ignore[assignment]

    def owned(self) -> dict[str, Tensor]:
        return {name: parameter.ds_tensor.detach() for name, parameter in self.parameters.items()}

    def unshard(self, name: str, part: Tensor) -> Tensor:
        shape = self.shapes[name]
        return _gather(part.to(self.device))[: shape.numel()].view(shape)

    def shard(self, name: str, whole: Tensor) -> Tensor:
        size = -(-whole.numel() // comm.world())
        mine = whole.flatten()[size * comm.rank() :][:size]
        return nn.functional.pad(mine, (0, size - mine.numel()))

    def load_weights(self, weights: State) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        super().load_weights(weights)
        for name, parameter in self.parameters.items():
            safe_set_local_fp32_param(parameter, self.shard(name, weights[name]))
            if parameter.numel() == self.shapes[name].numel():  # small parameters have an unsharded copy too
                parameter.data.copy_(weights[name])

    def rows(self) -> Iterator[tuple[Tensor, Places]]:
        position = {name: self.zero.grad_position[self.zero.get_param_id(p)] for name, p in self.parameters.items()}
        for number, row in enumerate(self.zero.fp32_partitioned_groups_flat):
            yield row, {name: start for name, (group, start, _) in position.items() if group == number}

    def unpack(self, places: Places, values: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name, start in places.items():
            yield name, self.unshard(name, values[start : start + self.parameters[name].ds_tensor.numel()])

    def pack(self, row: Tensor, places: Places, wholes: Mapping[str, Any]) -> Tensor:
        packed = torch.zeros_like(row, requires_grad=False)
        for name, start in places.items():
            mine = self.shard(name, wholes[name])
            packed[start : start + mine.numel()] = mine.to(row.device)
        return packed


def _deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed on demand: the import takes seconds and reads the environment."""
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed
    from deepspeed.utils import groups

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__ = {}  # no DeepSpeed kernels: building them needs a compiler and a minute
    groups._WORLD_GROUP = td.group.WORLD  # its clone would use torch's default timeout
    return deepspeed


def _sharding(stage: int, launch: Launch, device: torch.device, size: int) -> dict[str, Any]:
    """Return the section zero_optimization of DeepSpeed's configuration for a network of `size` values."""
    bucket = min(BUCKET, size)
    section: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": 2 * bucket}
    if stage == 3:
        section |= {"overlap_comm": device.type == "cuda", "stage3_param_persistence_threshold": SMALL}
    host = {"device": "cpu", "pin_memory": device.type == "cuda"}
    offload = {"offload_optimizer": launch.offload_optimizer, "offload_param": launch.offload_parameters and stage == 3}
    return section | {name: host for name, wanted in offload.items() if wanted}


def _gather(part: Tensor) -> Tensor:
    """Concatenate the values of all ranks, equally many of each, on every rank. Collective."""
    line = part.new_empty(comm.world() * part.numel())
    td.all_gather_into_tensor(line, part.detach().contiguous())
    return line


def _kinds(optimizer_state: State) -> list[str]:
    return sorted({key.partition("/")[0] for key in optimizer_state})


def _alike(values: list[Tensor | None]) -> bool:
    """Whether all values exist or none does, and all scalars are equal."""
    given = [value for value in values if value is not None]
    scalars = [float(value) for value in given if not value.dim()]
    return len(given) in (0, len(values)) and len(scalars) in (0, len(given)) and len(set(scalars)) <= 1
