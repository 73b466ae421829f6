"""Options of BasicSR and Real-ESRGAN to ours: `python sr/cli/convert/import_options.py FILE.yml > options/mine.yml`.

Every key of the file is either in what is printed, or in the list of comments under it, with the reason. What is
printed passes `sr check`; where it would not, the mistakes stand on stderr and the exit code is 1.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from sr.cli.convert.option_keys import Given, part, slim
from sr.config import registry
from sr.config.options import Options, contradictions
from sr.core.errors import UserError
from sr.train.builder import TABLES

TASKS = {
    "SRModel": "psnr",
    "SwinIRModel": "psnr",
    "RealESRNetModel": "psnr",
    "SRGANModel": "sr_gan",
    "ESRGANModel": "sr_gan",
    "RealESRGANModel": "sr_gan",
}


def convert(given: Given, gpus: int | None = None) -> dict[str, Any]:
    """Our options. What has no counterpart stays in `given`."""
    kind, scale = given.need("model_type"), given.need("scale")
    if kind not in TASKS:
        raise UserError(f"model_type {kind} trains in a way that is not here; known: {', '.join(TASKS)}")
    name = given.take("name", "imported")
    options: dict[str, Any] = {
        "name": re.sub(r"[^\w.-]", "_", name),
        "task": TASKS[kind],
        "scale": scale,
        "seed": given.take("manual_seed", 0),
        "generator": part(given, "network_g", "generators", upscale=scale, scale=scale, num_in_ch=3, num_out_ch=3),
        "discriminator": part(given, "network_d", "discriminators", num_in_ch=3),
        "init": initial(given),
        "losses": losses(given, kind),
        "degrade": degradation(given, kind),
        "data": data(given, gpus, name),
        "optimizer": {
            player: part(given, f"train.optim_{player[0]}", "optimizers", silent={"betas": [0.9, 0.999]})
            for player in ("generator", "discriminator")
        },
        "schedule": schedule(given),
        "train": {"total_steps": int(given.need("train.total_iter")), "ema_decay": given.take("train.ema_decay", 0)},
        "validation": validation(given, scale),
        "save": {"every": int(given.take("logger.save_checkpoint_freq", 5000))},
        "log": {"every": int(given.take("logger.print_freq", 100))},
    }
    given.expect("train.net_d_iters", 1, "both players update at every step")
    given.expect("train.net_d_init_iters", 0, "the discriminator has no start of its own; gan.weight may ramp up")
    return without_nothing(options)


def initial(given: Given) -> dict[str, str]:
    found = {}
    for player in ("generator", "discriminator"):
        key = f"path.pretrain_network_{player[0]}"
        file, strict = given.take(key), given.take(f"path.strict_load_{player[0]}", True)
        if file and strict:
            found[player] = file
        elif file:
            given.remarks[key] = f"{file} was to be loaded as far as it fits; here a file has to fit whole"
    return found


def losses(given: Given, kind: str) -> dict[str, Any]:
    weight = {"loss_weight": "weight"}
    pixel = part(given, "train.pixel_opt", "losses", renamed=weight, reduction="mean")
    found = {"pixel": pixel, "perceptual": perceptual(given, "train.perceptual_opt")}
    fixed: dict[str, Any] = {}
    labels = {"real_label_val": "real_label", "fake_label_val": "fake_label"}
    if kind == "ESRGANModel" or given.peek("train.gan_opt.gan_type") not in ("vanilla", "lsgan"):
        fixed, labels = {"real_label_val": 1.0, "fake_label_val": 0.0}, {}
    gan = part(given, "train.gan_opt", "gan", type_key="gan_type", renamed=weight | labels, type="GANLoss", **fixed)
    if gan and kind == "ESRGANModel":
        gan |= {"type": "relativistic", "base": gan["type"]}
        if gan["base"] == "lsgan":
            given.remarks["train.gan_opt.gan_type"] = "relativistic over lsgan has labels 1 and -1 here, there 1 and 0"
    return found | {"gan": gan and slim(gan, "gan")}


def perceptual(given: Given, path: str) -> dict[str, Any] | None:
    if given.take(f"{path}.type") is None:
        return None
    backbone, criterion = given.take(f"{path}.vgg_type", "vgg19"), given.take(f"{path}.criterion", "l1")
    weight, style = given.take(f"{path}.perceptual_weight", 1.0), given.take(f"{path}.style_weight", 0)
    given.expect(f"{path}.use_input_norm", True, "images are always normalised as ImageNet's")
    given.expect(f"{path}.range_norm", False, "images are 0..1")
    if criterion not in ("l1", "l2"):
        given.remarks[f"{path}.criterion"] = f"{criterion} is not here; taken: l1"
        criterion = "l1"
    found = {"layers": given.take(f"{path}.layer_weights"), "weight": weight or style}
    if (backbone, criterion, style) == ("vgg19", "l1", 0):
        return slim({"type": "vgg19"} | found, "losses")
    found |= {"backbone": backbone, "distance": criterion}
    if not weight:
        return slim({"type": "style"} | found, "losses")
    return slim({"type": "perceptual"} | found | {"style_weight": style / weight}, "losses")


# ---- degradation -----------------------------------------------------------------------------------------------------


def degradation(given: Given, kind: str) -> list[dict[str, Any]]:
    """Real-ESRGAN's two rounds and its end; nothing for pairs."""
    synthetic = given.take("high_order_degradation", True) and "resize_prob" in given
    sharp = sharpening(given, kind, synthetic)
    if not synthetic:
        return []
    given.expect("gt_size", given.peek("datasets.train.gt_size"), "data.gt_size is that of datasets.train")
    first, (*second, jpeg) = one_round(given, ""), one_round(given, "2")
    downscale, sinc = {"type": "downscale"}, {"type": "sinc", "prob": given.take("datasets.train.final_sinc_prob", 0.8)}
    choices = [[downscale, sinc, jpeg], [jpeg, downscale, sinc]]
    end = {"type": "one_of", "choices": [[slim(stage, "degrade") for stage in choice] for choice in choices]}
    return [*(slim(stage, "degrade") for stage in (*sharp, *first, *second)), end]


def sharpening(given: Given, kind: str, synthetic: bool) -> list[dict[str, Any]]:
    if kind == "RealESRNetModel":
        return [{"type": "sharpen"}] if given.take("gt_usm", False) and synthetic else []
    if kind != "RealESRGANModel":
        return []
    pixel, features = given.take("l1_gt_usm", True), given.take("percep_gt_usm", True)
    given.expect("gan_gt_usm", False, "the discriminator always sees the plain ground truth as real")
    if pixel != features:
        given.remarks["percep_gt_usm"] = f"all reconstruction losses have one target; it follows l1_gt_usm: {pixel}"
    if not synthetic and (pixel or features):
        given.remarks["l1_gt_usm"] = "the target of pairs is their ground truth as it is; sharpen the files beforehand"
    return [{"type": "sharpen", "target": pixel}]


def one_round(given: Given, n: str) -> list[dict[str, Any]]:
    """Blur, resize, noise, jpeg of the first ('') or second ('2') round, in its own keys."""
    train = "datasets.train."
    names, shares = given.take(f"{train}kernel_list{n}", []), given.take(f"{train}kernel_prob{n}", [])
    given.expect(f"{train}blur_kernel_size{n}", 21, "kernels are 7 to 21 wide there too, whatever this says")
    up, down, keep = given.need(f"resize_prob{n}")
    total = up + down + keep
    return [
        {
            "type": "blur",
            "prob": given.take("second_blur_prob", 1.0) if n else 1.0,
            "kinds": dict(zip(names, shares, strict=True)),
            "sinc_prob": given.take(f"{train}sinc_prob{n}"),
            "sigma": given.take(f"{train}blur_sigma{n}"),
            "beta_gaussian": given.take(f"{train}betag_range{n}"),
            "beta_plateau": given.take(f"{train}betap_range{n}"),
        },
        {
            "type": "resize",
            "up_prob": round(up / total, 6),
            "down_prob": round(down / total, 6),
            "range": given.take(f"resize_range{n}"),
            "relative_to": "lq" if n else "current",
        },
        {
            "type": "noise",
            "gaussian_prob": given.take(f"gaussian_noise_prob{n}"),
            "sigma": given.take(f"noise_range{n}"),
            "poisson_scale": given.take(f"poisson_scale_range{n}"),
            "gray_prob": given.take(f"gray_noise_prob{n}"),
        },
        {"type": "jpeg", "quality": given.take(f"jpeg_range{n}")},
    ]


# ---- data, schedule, validation --------------------------------------------------------------------------------------


def processes(given: Given, name: str) -> int:
    """num_gpu; where that is `auto`, the 4 of a name like train_B12G4, else 1."""
    number, named = given.take("num_gpu"), re.search(r"B\d+G(\d+)", name)
    if isinstance(number, int):
        return max(1, number)
    if named is None:
        given.remarks["num_gpu"] = "auto does not say how many, so batch_size is that of one; pass --gpus N for N"
    return int(named[1]) if named else 1


def data(given: Given, gpus: int | None, name: str) -> dict[str, Any]:
    train, named = "datasets.train.", processes(given, name)
    kind, size = given.take(f"{train}type"), given.need(f"{train}gt_size")
    source = {"type": "folder", "gt": folder(given, f"{train}dataroot_gt"), "lq": folder(given, f"{train}dataroot_lq")}
    if source["lq"] == source["gt"]:
        given.remarks[f"{train}dataroot_lq"] = "is the folder of gt too; name under source the folder of each"
    given.expect(f"{train}filename_tmpl", "{}", "partners have one name, lq maybe with _x4")
    return {
        "source": source,
        "degrade_size": max(400, size) if kind == "RealESRGANDataset" else None,
        "gt_size": size,
        "batch_size": given.need(f"{train}batch_size_per_gpu") * (gpus or named),
        "workers": given.take(f"{train}num_worker_per_gpu", 4),
        "flip": given.take(f"{train}use_hflip", True),
        "rotate": given.take(f"{train}use_rot", False),
    }


def folder(given: Given, path: str) -> str | None:
    named: str | None = given.take(path)
    if named and named.endswith(".lmdb"):
        given.remarks[path] = f"{named} is an LMDB, which is not read here; the folder of the same name is taken"
        return named.removesuffix(".lmdb")
    return named


def schedule(given: Given) -> dict[str, Any] | None:
    path = "train.scheduler"
    kind, periods = given.peek(f"{path}.type"), given.peek(f"{path}.periods") or []
    silent = {"gamma": 0.1} if str(kind).startswith("MultiStep") else {}
    found = part(given, path, "schedules", silent=silent, restart_weights=[1] * len(periods))
    warmup = given.take("train.warmup_iter", -1)
    return found and (found | {"warmup_steps": warmup} if warmup > 0 else found)


def validation(given: Given, scale: int) -> dict[str, Any] | None:
    sets, best = {}, None
    for key in [key for key in given.keys("datasets") if key.startswith("val")]:
        given.take(f"datasets.{key}.type")
        given.expect(f"datasets.{key}.filename_tmpl", "{}", "partners have one name, lq maybe with _x4")
        pair = {"hr": folder(given, f"datasets.{key}.dataroot_gt"), "lr": folder(given, f"datasets.{key}.dataroot_lq")}
        sets[given.take(f"datasets.{key}.name", key)] = pair
    if not sets:
        given.expect("val", None, "there is no validation set")
        return None
    for key in given.keys("val.metrics"):
        path = f"val.metrics.{key}"
        given.expect(f"{path}.crop_border", scale, f"the border is the scale, {scale}")
        if given.peek(f"{path}.type") in ("calculate_psnr", "calculate_ssim"):
            metric = given.take(f"{path}.type").removeprefix("calculate_")
            best = best or f"{metric}_{'y' if given.peek(f'{path}.test_y_channel') else 'rgb'}"
            given.take(f"{path}.test_y_channel")
        else:
            given.remarks[path] = "psnr and ssim, in RGB and of the luma, are what is measured"
            given.take(path)
    every, images = given.take("val.val_freq"), given.take("val.save_img", True)
    found = {"every": every and int(every), "best": best, "images": None if images else 0}
    return {"sets": sets} | found


# ---- the program -----------------------------------------------------------------------------------------------------


def without_nothing(node: Any) -> Any:
    """Mappings without what is None or empty."""
    if isinstance(node, list):
        return [without_nothing(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: without_nothing(value) for key, value in node.items()}
    return {key: value for key, value in kept.items() if value is not None and value not in ({}, [])}


def problems(options: dict[str, Any]) -> list[registry.Problem]:
    found = registry.check_model(Options, options, TABLES)
    return found or contradictions(Options.model_validate(options))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print options of BasicSR or Real-ESRGAN as options of sr.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--gpus", type=int, help="processes that batch_size_per_gpu is meant for; default: the file's")
    args = parser.parse_args(arguments)
    try:
        given = Given(yaml.safe_load(args.file.read_text(encoding="utf-8")))
        options = convert(given, args.gpus)
    except (UserError, OSError, yaml.YAMLError, ValueError, TypeError) as error:
        print(f"{args.file}: cannot be imported ({error}); mend that key in the file", file=sys.stderr)
        return 2
    print(f"# From {args.file.name}. Shards load faster: sr shard FOLDER OUT, data.source: {{type: shards, path: OUT}}")
    print(yaml.safe_dump(options, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True), end="")
    rest = given.rest()
    if rest:
        print("\n# Without counterpart:")
    for path, why in rest.items():
        print(f"#   {path}: {why}")
    mistakes = problems(options)
    for problem in mistakes:
        print(f"{'.'.join(map(str, problem.path))}: {problem.message}", file=sys.stderr)
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
