"""Training commands of pytorch-CycleGAN-and-pix2pix as options of sr."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from sr.core.errors import UserError, printable
from sr.data.paths import find_images

IMAGES = 1000  # assumed for a folder that is not here
_COMMON: dict[str, Any] = {
    **{"name": "experiment_name", "checkpoints_dir": "./checkpoints", "model": "cycle_gan", "phase": "train"},
    **{"input_nc": 3, "output_nc": 3, "ngf": 64, "ndf": 64, "netD": "basic", "netG": "resnet_9blocks"},
    **{"n_layers_D": 3, "norm": "instance", "no_dropout": False, "dataset_mode": "unaligned", "direction": "AtoB"},
    **{"num_threads": 4, "batch_size": 1, "load_size": 286, "crop_size": 256, "preprocess": "resize_and_crop"},
    **{"no_flip": False, "n_epochs": 100, "n_epochs_decay": 100, "beta1": 0.5, "lr": 0.0002, "gan_mode": "lsgan"},
    **{"pool_size": 50, "lr_policy": "linear", "lr_decay_iters": 50, "print_freq": 100, "save_latest_freq": 5000},
    **{"use_wandb": False, "wandb_project_name": "CycleGAN-and-pix2pix", "lambda_L1": 100.0, "lambda_A": 10.0},
    **{"lambda_B": 10.0, "lambda_identity": 0.5, "init_type": "normal", "init_gain": 0.02, "gpu_ids": "0"},
}
_PAIRS: dict[str, Any] = {"norm": "batch", "netG": "unet_256", "dataset_mode": "aligned", "pool_size": 0}
_PAIRS |= {"gan_mode": "vanilla"}
_COLOR = {"dataset_mode": "colorization", "input_nc": 1, "output_nc": 2}
MODELS = {"cycle_gan": {"no_dropout": True}, "pix2pix": _PAIRS, "colorization": _PAIRS | _COLOR}
"""The defaults that a model changes."""
_OLD = {"n_epochs": "niter", "n_epochs_decay": "niter_decay", "direction": "which_direction", "batch_size": "batchSize"}
_OLD |= {"crop_size": "fineSize", "load_size": "loadSize", "num_threads": "nThreads", "netG": "which_model_netG"}
_OLD |= {"netD": "which_model_netD"}
_SHOWN = "progress is always shown, and TensorBoard has the curves and images"
_RESUME = "a run resumes from its own checkpoints by the same command"
REASONS = {
    **dict.fromkeys(("display_freq", "display_ncols", "display_id", "display_server", "display_env"), _SHOWN),
    **dict.fromkeys(("display_port", "display_winsize", "update_html_freq", "no_html", "verbose"), _SHOWN),
    **dict.fromkeys(("continue_train", "epoch_count", "epoch", "load_iter"), _RESUME),
    "save_epoch_freq": "save.every sets how often models are saved, in steps",
    "save_by_iter": "models are always named after their step",
    "serial_batches": "samples are always shuffled",
    "max_dataset_size": "a folder is taken whole; name globs or a list of files for less",
    "suffix": "set `name`",
}
"""Flags without counterpart."""


def words_of(text: str, source: str) -> list[str] | None:
    """Return the arguments of the training command in a text; None where it holds none. Raises UserError for several.

    source: names the text in messages.
    """
    lines = [line.split(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if re.search(r"(^|[\s/])train\.py(\s|$)", line) and not line.startswith("#")]
    if not commands:
        return None
    if len(commands) > 1:
        raise UserError(f"{source} has {len(commands)} training commands; give one of them in quotes")
    try:
        words = shlex.split(commands[0])
    except ValueError as error:
        raise UserError(f"{source} is not a shell command ({error}); correct it") from None
    return words[next(n for n, word in enumerate(words) if word.endswith("train.py")) + 1 :]


def convert(words: list[str], images: int | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options of sr, and each flag without counterpart with the reason.

    images: of the training set; None counts them.
    """
    given, rest = _parsed(words)
    model = given.get("model", "cycle_gan")
    if model not in MODELS:
        raise UserError(f"--model {model} does not train here; known: {', '.join(MODELS)}")
    flags = argparse.Namespace(**(_COMMON | MODELS[model] | given))
    source = _source(flags, rest)
    steps = _steps_per_epoch(flags, source, images, rest)
    options: dict[str, Any] = {
        "name": re.sub(r"^\W", "_", re.sub(r"[^\w.-]", "_", flags.name)),
        "out": flags.checkpoints_dir,
        "task": "cyclegan" if model == "cycle_gan" else "pix2pix",
        "generator": _generator(flags, rest),
        "discriminator": _discriminator(flags),
        "losses": _losses(flags, rest),
        "data": _data(flags, source, rest),
        "optimizer": {
            player: {"type": "adam", "lr": flags.lr, "betas": [flags.beta1, 0.999]}
            for player in ("generator", "discriminator")
        },
        "schedule": _schedule(flags, steps, rest),
        "train": {"total_steps": steps * (flags.n_epochs + flags.n_epochs_decay), "ema_decay": 0},
        "save": {"every": max(1, flags.save_latest_freq // flags.batch_size)},
        "log": {"every": max(1, flags.print_freq // flags.batch_size)},
    }
    if model == "cycle_gan":
        options["cycle"] = {"identity": flags.lambda_identity, "pool": flags.pool_size}
    if flags.use_wandb:
        options["log"]["trackers"] = ["tensorboard", {"type": "wandb", "project": flags.wandb_project_name}]
    return options, {printable(flag): printable(reason) for flag, reason in rest.items()}


def _parsed(words: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the flags that were given by name, and those without counterpart."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--dataroot")
    for name, default in _COMMON.items():
        names = [f"--{name}", *([f"--{_OLD[name]}"] if name in _OLD else [])]
        kind: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        parser.add_argument(*names, dest=name, **kind)
    for name in REASONS:
        parser.add_argument(f"--{name}", nargs="?")
    try:
        found, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"the command cannot be read ({error}); correct it") from None
    values = vars(found)
    if "dataroot" not in values:
        raise UserError("the command has no --dataroot; add it")
    rest = {f"--{name}": REASONS[name] for name in REASONS if values.pop(name, ...) is not ...}
    rest |= {word: "unknown here" for word in unknown if word.startswith("-")}
    if values.get("gpu_ids", "0") != "0":
        rest["--gpu_ids"] = "start several processes by accelerate launch --config_file launch/one_node.yaml"
    if (values.get("init_type", "normal"), values.get("init_gain", 0.02)) != ("normal", 0.02):
        rest["--init_type"] = "weights start from a normal distribution of 0.02"
    return values, rest


def _source(flags: argparse.Namespace, rest: dict[str, str]) -> dict[str, Any]:
    root = f"{flags.dataroot.rstrip('/')}/{flags.phase}"
    if flags.model == "colorization":
        return {"type": "colorize", "of": {"type": "folder", "gt": root}}
    if flags.model == "pix2pix":
        if flags.dataset_mode != "aligned":
            rest["--dataset_mode"] = "pix2pix trains on images that hold a and b side by side"
        return {"type": "side_by_side", "path": root}
    first, second = ("A", "B") if flags.direction == "AtoB" else ("B", "A")
    sides = {key: {"type": "folder", "gt": f"{root}{side}"} for key, side in (("a", first), ("b", second))}
    return {"type": "unpaired", **sides}


def _steps_per_epoch(
    flags: argparse.Namespace, source: dict[str, Any], images: int | None, rest: dict[str, str]
) -> int:
    """An epoch of two sets is as long as the larger one."""
    sides = [source["a"], source["b"]] if "a" in source else [source.get("of", source)]
    folders = [side.get("path") or side["gt"] for side in sides]
    if images is None and all(Path(folder).is_dir() for folder in folders):
        images = max(len(find_images(folder).paths) for folder in folders)
    if images is None:
        rest["--n_epochs"] = f"counts images and {folders[0]} is not here; steps are for {IMAGES}: pass --images N"
    return max(1, -(-(images or IMAGES) // flags.batch_size))


def _generator(flags: argparse.Namespace, rest: dict[str, str]) -> dict[str, Any]:
    if flags.norm == "syncbatch":
        rest["--norm"] = "batch statistics are those of each process"
    channels = {"num_in_ch": flags.input_nc, "num_out_ch": flags.output_nc}
    return {
        "type": flags.netG,
        "num_feat": flags.ngf,
        "norm": _norm(flags),
        "dropout": not flags.no_dropout,
        **{key: count for key, count in channels.items() if count != 3},
    }


def _norm(flags: argparse.Namespace) -> str:
    return "batch" if flags.norm == "syncbatch" else str(flags.norm)


def _discriminator(flags: argparse.Namespace) -> dict[str, Any]:
    layers = {"basic": 3, "n_layers": flags.n_layers_D, "pixel": 0}
    if flags.netD not in layers:
        raise UserError(f"--netD {flags.netD} is not here; known: {', '.join(layers)}")
    made = {"type": "patchgan", "num_feat": flags.ndf, "num_layers": layers[flags.netD], "norm": _norm(flags)}
    return made if flags.model == "cycle_gan" else made | {"conditional": True}


def _losses(flags: argparse.Namespace, rest: dict[str, str]) -> dict[str, Any]:
    kinds = {"vanilla": "vanilla", "lsgan": "lsgan", "wgangp": "wgan_gp"}
    if flags.gan_mode not in kinds:
        raise UserError(f"--gan_mode {flags.gan_mode} is not here; known: {', '.join(kinds)}")
    gan = {"type": kinds[flags.gan_mode], "weight": 1.0}
    if flags.model != "cycle_gan":
        if flags.pool_size:
            rest["--pool_size"] = "an image pool is for CycleGAN only"
        return {"l1": {"type": "l1", "weight": flags.lambda_L1, "range": 2}, "gan": gan}
    if flags.lambda_A != flags.lambda_B:
        rest["--lambda_B"] = "both cycles have one weight, that of --lambda_A"
    return {"cycle": {"type": "l1", "weight": flags.lambda_A, "range": 2}, "gan": gan}


def _data(flags: argparse.Namespace, source: dict[str, Any], rest: dict[str, str]) -> dict[str, Any]:
    resized = flags.preprocess == "resize_and_crop"
    if flags.preprocess not in ("resize_and_crop", "crop"):
        rest["--preprocess"] = "images are cropped; resize them beforehand"
    turned = flags.direction == "BtoA" and flags.model == "pix2pix"
    return {
        "source": source,
        **({"load_size": max(flags.load_size, flags.crop_size)} if resized else {}),
        "gt_size": flags.crop_size,
        "batch_size": flags.batch_size,
        "workers": flags.num_threads,
        **({"direction": "b_to_a"} if turned else {}),
        **({"flip": False} if flags.no_flip else {}),
    }


def _schedule(flags: argparse.Namespace, steps: int, rest: dict[str, str]) -> dict[str, Any]:
    """Return the schedule; theirs is in epochs."""
    epochs = flags.n_epochs + flags.n_epochs_decay
    if flags.lr_policy == "linear" and flags.n_epochs_decay:
        return {"type": "linear", "constant": round(flags.n_epochs / epochs, 6)}
    if flags.lr_policy == "step":
        milestones = [epoch * steps for epoch in range(flags.lr_decay_iters, epochs, flags.lr_decay_iters)]
        return {"type": "multistep", "milestones": milestones, "gamma": 0.1}
    if flags.lr_policy == "cosine":
        return {"type": "cosine"}
    if flags.lr_policy != "linear":
        rest["--lr_policy"] = f"{flags.lr_policy} is not here; the learning rate is constant"
    return {"type": "constant"}
