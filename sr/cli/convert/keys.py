"""The keys of an options file, each taken once, and the parts of sr that they make."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sr.cli.convert.dialects import basicsr_form
from sr.config import registry
from sr.core.errors import UserError, printable
from sr.train.builder import TABLES

TYPES = {
    "generators": {
        "rrdbnet": "rrdbnet",
        "msrresnet": "srresnet",
        "edsr": "edsr",
        "rcan": "rcan",
        "srvggnetcompact": "compact",
    },
    "discriminators": {
        "unetdiscriminatorsn": "unet_sn",
        "unet": "unet_sn",
        "vggstylediscriminator": "vgg",
        "vggdiscriminator": "vgg",
    },
    "losses": {
        "l1loss": "l1",
        "mseloss": "l2",
        "charbonnierloss": "charbonnier",
        "huberloss": "huber",
        "mssimloss": "ms_ssim",
        "ssimloss": "ssim",
        "ldlloss": "ldl",
        "distsloss": "dists",
        "contextualloss": "contextual",
        "fdlloss": "fdl",
        "ffloss": "focal_frequency",
        "fftloss": "fft",
        "weightedtvloss": "tv",
    },
    "gan": {
        "vanilla": "vanilla",
        "bce": "vanilla",
        "lsgan": "lsgan",
        "mse": "lsgan",
        "hinge": "hinge",
        "wgan": "wgan",
        "wgan_softplus": "softplus",
    },
    "optimizers": {
        "adam": "adam",
        "adamw": "adamw",
        "nadam": "torch.NAdam",
        "sgd": "torch.SGD",
        "adan": "timm.Adan",
        "lion": "timm.Lion",
        "adamp": "timm.AdamP",
        "lamb": "timm.Lamb",
        "muon": "timm.Muon",
        "prodigy": "pytorch_optimizer.Prodigy",
        "soap": "pytorch_optimizer.SOAP",
    },
    "schedules": {
        "multisteplr": "multistep",
        "multisteprestartlr": "multistep",
        "cosineannealingrestartlr": "cosine",
        "cosineannealinglr": "cosine",
        "cosineannealing": "cosine",
    },
}
"""Their types -> ours. Theirs in lower case and without underscores, as traiNNer-redux and neosr write them."""

U_NETS = ("dunet", "metagan", "metagan2", "metagan3", "ea2fpn")
"""Discriminators of traiNNer-redux and neosr that unet_sn replaces."""

_ALWAYS = "needs no key here"
_DEGRADE = "degradations have no such stage"
_MIXED = "`augment` lists mixup, cutmix, resizemix and cutblur, each with a probability of its own; add those you want"
REASONS = {
    "queue_size": "every sample is degraded independently, so no pool of pairs is needed",
    "dataset_enlarge_ratio": "samples come without end, so no epoch needs to be made longer",
    "use_shuffle": "samples are always shuffled",
    "prefetch_mode": "the loader always prefetches",
    "num_prefetch_queue": "the loader always prefetches",
    "pin_memory": "memory is always pinned for CUDA",
    "persistent_workers": "workers always persist",
    "io_backend": "images are read from files, or from the shards that `sr shard` makes",
    "meta_info": "a folder is taken whole; name globs or a list of files under source.gt for less",
    "meta_info_file": "a folder is taken whole; name globs or a list of files under source.gt for less",
    "resume_state": "a run resumes from its own checkpoints",
    "param_key_g": "of several state dicts in a file the averaged one is taken",
    "param_key_d": "of several state dicts in a file the averaged one is taken",
    "dist_params": "accelerate launch starts the processes",
    "find_unused_parameters": _ALWAYS,
    "use_tb_logger": "TensorBoard is written by default",
    "wandb": "add wandb to log.trackers",
    "better": "known of each metric",
    "pbar": "progress is always shown",
    "suffix": "saved images are named after their set",
    "datasets.train.name": "the run's own name is shown",
    "cache_data": "the operating system caches files",
    "mean": "images are 0..1",
    "std": "images are 0..1",
    # traiNNer-redux and neosr
    "compile_mode": "torch.compile runs in its default mode",
    "fast_matmul": "the precision of matrix products follows train.precision",
    "deterministic": "the same seed gives the same samples; kernels are not forced to be deterministic",
    "detect_anomaly": "losses and gradients that are not finite are always reported",
    "high_order_degradations_debug": "`sr degrade` writes what the network sees",
    "high_order_degradations_debug_limit": "`sr degrade` writes what the network sees",
    "lq_usm": _DEGRADE,
    "lq_usm_radius_range": _DEGRADE,
    "thicklines_prob": _DEGRADE,
    "resize_mode_prob": "each of `modes` is equally likely",
    "resize_mode_prob2": "each of `modes` is equally likely",
    "resize_mode_list3": "set `mode` of downscale",
    "resize_mode_prob3": "set `mode` of downscale",
    "kernel_range": "kernels are 7 to 21 wide",
    "kernel_range2": "kernels are 7 to 21 wide",
    "final_kernel_range": "kernels are 7 to 21 wide",
    "clip_size": "samples are single images",
    "augmentation": _MIXED,
    "aug_prob": _MIXED,
    "moa_augs": _MIXED,
    "moa_probs": _MIXED,
    "moa_debug": _MIXED,
    "moa_debug_limit": _MIXED,
    "ema_power": "the moving average warms up by itself",
    "ema_update_after_step": "the moving average warms up by itself",
    "schedule_free": "the learning rate follows `schedule`",
    "warmup_steps": "the learning rate follows `schedule`",
    "sam": "gradients are used as they are",
    "eco": "all parameters are always updated",
    "wavelet_guided": "not here",
    "wavelet_init": "not here",
    "match_lq_colors": "not here",
    "clamp": "losses see the output without clamping",
    "val_enabled": "remove `validation` to train without",
    "metrics_enabled": "metrics are always computed",
    "tile": "validation runs on whole images",
    "tile_size": "validation runs on whole images",
    "tile_overlap": "validation runs on whole images",
    "save_checkpoint_format": "models are saved as .safetensors; `sr export` writes .pth",
    "use_chk": "set train.checkpoint_activations",
    "use_checkpoint": "set train.checkpoint_activations",
}


class Given:
    """The keys of the file. Each is taken once; what is left, or was remarked on, has no counterpart.

    original: path here -> path in the file, where a dialect names things differently. last: the key taken last.
    """

    def __init__(self, values: Any) -> None:
        if not isinstance(values, dict) or not isinstance(values.get("network_g"), dict):
            raise UserError(
                "the file has no 'network_g'; give a training file of BasicSR, Real-ESRGAN, traiNNer-redux or neosr"
            )
        self.values, self.original = basicsr_form(values)
        self.remarks, self.last = dict[str, str](), ""

    def __contains__(self, path: str) -> bool:
        return self.peek(path) is not None

    def take(self, path: str, default: Any = None) -> Any:
        self.last = path
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

    def drop(self, path: str, reason: str) -> None:
        """Take a whole section that has no counterpart."""
        for leaf in [*_leaves(self.take(path), path)]:
            self.remarks[leaf] = reason

    def rest(self) -> dict[str, str]:
        """Return each key without a counterpart, with the reason."""
        found = {}
        for path in _leaves(self.values, ""):
            words = [path, *reversed(path.split("."))]
            found[path] = next((REASONS[word] for word in words if word in REASONS), "unknown here")
        return {printable(self._shown(path)): printable(why) for path, why in (self.remarks | found).items()}

    def _shown(self, path: str) -> str:
        """Return the path as the file has it."""
        steps = path.split(".")
        for count in range(len(steps), 0, -1):
            if (start := ".".join(steps[:count])) in self.original:
                return ".".join([self.original[start], *steps[count:]])
        return path

    def _holder(self, path: str) -> dict[str, Any]:
        node: Any = self.values
        for step in path.split(".")[:-1]:
            node = node.get(step) or {} if isinstance(node, dict) else {}
        return node if isinstance(node, dict) else {}


def _leaves(node: Any, path: str) -> Iterable[str]:
    if isinstance(node, dict) and path.rpartition(".")[2] not in REASONS:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path


def plain(kind: Any) -> str:
    """Return a type without the differences in spelling: `CharbonnierLoss` and `charbonnier_loss` are equal."""
    return str(kind).lower().replace("_", "")


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
    """Return a mapping with a type as a part of sr: the keys of its constructor whose values are not the defaults.

    silent: the defaults of the other program. renamed: their key -> ours. implied: keys that have a counterpart only
    with this value, because it follows from other keys.
    """
    kind = given.take(f"{path}.{type_key}")
    if kind is None:
        return None
    known = TYPES[table]
    ours = known.get(kind) or known.get(plain(kind))
    remark = given.remarks.__setitem__
    if ours is None and table == "optimizers":
        ours = "adamw"
        given.expect(f"{path}.betas", None, f"of {kind}")
        remark(f"{path}.{type_key}", f"{kind} is not here; adamw is taken in its place: set its lr, such as 1e-4")
    if ours is None and table == "discriminators" and kind in U_NETS:
        ours = "unet_sn"
        given.drop(path, f"of {kind}, which is not here")
        remark(f"{path}.{type_key}", f"{kind} is not here; the U-Net of Real-ESRGAN is taken in its place")
    if ours is None:
        remark(f"{path}.{type_key}", f"{kind} is not here; known: {', '.join(known)}")
        return None
    return fitted(given, path, table, {"type": ours} | (silent or {}), renamed or {}, implied)


def fitted(
    given: Given, path: str, table: str, found: dict[str, Any], renamed: Mapping[str, str], implied: dict[str, Any]
) -> dict[str, Any]:
    """Return a part with the keys of a section that its constructor has, without defaults."""
    fields = registry.part_model(TABLES[table], registry.find(TABLES[table], found["type"])).model_fields
    for key in given.keys(path):
        name = renamed.get(key, key)
        if key in implied:
            given.expect(f"{path}.{key}", implied[key], f"is {implied[key]} here")
        elif name in fields:
            found[name] = given.take(f"{path}.{key}")
    return slim(found, table)


def slim(part: dict[str, Any], table: str) -> dict[str, Any]:
    """Return a part without the values that are defaults of its constructor."""
    fields = registry.part_model(TABLES[table], registry.find(TABLES[table], part["type"])).model_fields
    defaults = {key: json.loads(json.dumps(info.get_default(), default=str)) for key, info in fields.items()}
    return {key: value for key, value in part.items() if key == "type" or value != defaults.get(key)}
