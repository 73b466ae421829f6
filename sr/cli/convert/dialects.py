"""Options of traiNNer-redux and neosr in the keys of BasicSR, from which both come."""

import copy
from typing import Any

_MOVED = {
    # traiNNer-redux
    "use_amp": "train.use_amp",
    "amp_bf16": "train.amp_bf16",
    "use_channels_last": "train.channels_last",
    "use_compile": "train.compile",
    # neosr
    "bfloat16": "train.amp_bf16",
    "compile": "train.compile",
    "accumulate": "datasets.train.accum_iter",
    "datasets.train.accumulate": "datasets.train.accum_iter",
    "datasets.train.patch_size": "datasets.train.lq_size",
    "datasets.train.batch_size": "datasets.train.batch_size_per_gpu",
    "logger.total_iter": "train.total_iter",
    "train.ema": "train.ema_decay",
}
_KERNELS = ("kernel_list", "kernel_prob", "blur_kernel_size", "sinc_prob", "blur_sigma", "betag_range", "betap_range")
_OF_DATASET = (*_KERNELS, *(f"{name}2" for name in _KERNELS), "final_sinc_prob")


def basicsr_form(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(the options in keys of BasicSR, path there -> path in the file for all that moved)."""
    values, original = copy.deepcopy(values), dict[str, str]()
    for old, new in _MOVED.items():
        _move(values, old, new, original)
    for key in [*_section(values, "degradations")]:
        place = f"datasets.train.{key}" if key in _OF_DATASET else key
        _move(values, f"degradations.{key}", place, original)
    _losses(values, original)
    return values, original


def _losses(values: dict[str, Any], original: dict[str, str]) -> None:
    """The list `train.losses` of traiNNer-redux as sections `train.<type>_opt`."""
    train = _section(values, "train")
    losses = train.get("losses")
    if not isinstance(losses, list) or not all(isinstance(loss, dict) and "type" in loss for loss in losses):
        return
    del train["losses"]
    for loss in losses:
        name = str(loss["type"]).lower().removesuffix("loss").replace("_", "")
        key = {"gan": "gan_opt", "perceptual": "perceptual_opt"}.get(name, f"{name}_opt")
        while key in train:
            key = key.replace("_opt", "_again_opt")
        train[key] = loss
        original[f"train.{key}"] = f"train.losses.{loss['type']}"


def _move(values: dict[str, Any], old: str, new: str, original: dict[str, str]) -> None:
    *sections, key = old.split(".")
    holder = _section(values, *sections)
    *into, name = new.split(".")
    if key in holder and name not in _section(values, *into):
        target = values
        for step in into:
            if not isinstance(target.get(step), dict):
                target[step] = {}
            target = target[step]
        target[name] = holder.pop(key)
        original[new] = old


def _section(values: dict[str, Any], *path: str) -> dict[str, Any]:
    node: Any = values
    for step in path:
        node = node.get(step) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}
