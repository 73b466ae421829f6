"""The keys of an options file of BasicSR, each taken once, and the parts of ours that they make."""

import json
from collections.abc import Iterable
from typing import Any

from sr.config import registry
from sr.core.errors import UserError
from sr.train.builder import TABLES

TYPES = {
    "generators": {
        "RRDBNet": "rrdbnet",
        "MSRResNet": "srresnet",
        "EDSR": "edsr",
        "RCAN": "rcan",
        "SRVGGNetCompact": "compact",
    },
    "discriminators": {"UNetDiscriminatorSN": "unet_sn", "VGGStyleDiscriminator": "vgg"},
    "losses": {"L1Loss": "l1", "MSELoss": "l2", "CharbonnierLoss": "charbonnier"},
    "gan": {"vanilla": "vanilla", "lsgan": "lsgan", "hinge": "hinge", "wgan": "wgan", "wgan_softplus": "softplus"},
    "optimizers": {"Adam": "adam", "AdamW": "adamw"},
    "schedules": {"MultiStepLR": "multistep", "MultiStepRestartLR": "multistep", "CosineAnnealingRestartLR": "cosine"},
}
REASONS = {
    "queue_size": "every sample has draws of its own, so no pool of pairs is needed",
    "dataset_enlarge_ratio": "samples come without end, so no epoch needs to be made longer",
    "use_shuffle": "samples are always shuffled",
    "prefetch_mode": "the loader always prefetches",
    "num_prefetch_queue": "the loader always prefetches",
    "pin_memory": "memory is always pinned for CUDA",
    "persistent_workers": "workers always persist",
    "io_backend": "images are read from files, or from the shards that `sr shard` makes",
    "meta_info": "a folder is taken whole; name globs or a list of files under source.gt for less",
    "meta_info_file": "a folder is taken whole; name globs or a list of files under source.gt for less",
    "resume_state": "a run resumes from its own checkpoints by itself",
    "param_key_g": "of several state dicts in a file the averaged one is taken",
    "param_key_d": "of several state dicts in a file the averaged one is taken",
    "dist_params": "accelerate launch places the processes",
    "use_tb_logger": "TensorBoard is always written",
    "wandb": "curves go to TensorBoard",
    "better": "known of each metric",
    "pbar": "progress is always shown",
    "suffix": "saved images are named after their set",
    "datasets.train.name": "the run's own name is shown",
}


class Given:
    """The keys of the file. Each is taken once; what nobody took, or was remarked on, has no counterpart."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, dict) or not isinstance(values.get("network_g"), dict):
            raise UserError("the file has no 'network_g'; give a training file of BasicSR or Real-ESRGAN")
        self.values, self.remarks = values, dict[str, str]()

    def __contains__(self, path: str) -> bool:
        return self.peek(path) is not None

    def take(self, path: str, default: Any = None) -> Any:
        value = self._holder(path).pop(path.rpartition(".")[2], None)
        return default if value is None else value

    def need(self, path: str) -> Any:
        if path not in self:
            raise UserError(f"the file has no '{path}'; add it")
        return self.take(path)

    def peek(self, path: str) -> Any:
        return self._holder(path).get(path.rpartition(".")[2])

    def keys(self, path: str) -> list[str]:
        """The keys left in a section."""
        return list(self._holder(f"{path}."))

    def expect(self, path: str, value: Any, why: str) -> None:
        """Take a key that has a counterpart only where it has this value."""
        if self.take(path, value) != value:
            self.remarks[path] = why

    def rest(self) -> dict[str, str]:
        """Each key without a counterpart, and why."""
        found = {}
        for path in _leaves(self.values, ""):
            words = [path, *reversed(path.split("."))]
            found[path] = next((REASONS[word] for word in words if word in REASONS), "unknown here")
        return self.remarks | found

    def _holder(self, path: str) -> dict[str, Any]:
        node: Any = self.values
        for step in path.split(".")[:-1]:
            node = node.get(step) or {} if isinstance(node, dict) else {}
        return node


def _leaves(node: Any, path: str) -> Iterable[str]:
    if isinstance(node, dict) and path.rpartition(".")[2] not in REASONS:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path


def part(
    given: Given,
    path: str,
    table: str,
    *,
    type_key: str = "type",
    silent: dict[str, Any] | None = None,
    renamed: dict[str, str] | None = None,
    **implied: Any,
) -> dict[str, Any] | None:
    """A mapping with a type as a part of ours: the keys that its constructor has and that are not its defaults.

    silent: what the other program takes where the file says nothing. renamed: their key -> ours. implied: keys that
    have a counterpart only where they have this value, as it follows from other keys.
    """
    kind = given.take(f"{path}.{type_key}")
    if kind is None:
        return None
    ours = TYPES[table].get(kind, f"basicsr.{kind}" if table == "generators" else None)
    if ours is None:
        given.remarks[f"{path}.{type_key}"] = f"{kind} is not here; known: {', '.join(TYPES[table])}"
        return None
    fields = registry.part_model(TABLES[table], registry.find(TABLES[table], ours)).model_fields
    found = {"type": ours} | (silent or {})
    for key in given.keys(path):
        name = (renamed or {}).get(key, key)
        if key in implied:
            given.expect(f"{path}.{key}", implied[key], f"is {implied[key]} here")
        elif name in fields:
            found[name] = given.take(f"{path}.{key}")
    return slim(found, table)


def slim(part: dict[str, Any], table: str) -> dict[str, Any]:
    """A part without what its constructor takes by default."""
    fields = registry.part_model(TABLES[table], registry.find(TABLES[table], part["type"])).model_fields
    defaults = {key: json.loads(json.dumps(info.get_default(), default=str)) for key, info in fields.items()}
    return {key: value for key, value in part.items() if key == "type" or value != defaults.get(key)}
