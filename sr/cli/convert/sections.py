"""The sections of an options file of BasicSR, Real-ESRGAN, traiNNer-redux or neosr as sections of sr."""

import re
from typing import Any

from sr.cli.convert.keys import TYPES, Given, fitted, part, plain, slim
from sr.cli.convert.networks import NEOSR, NETWORKS, Network
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
NEOSR_MODELS = ("image", "otf", "default")
_RENAMED = {  # keys of losses
    "fdlloss": {"patch_size": "patch", "num_proj": "projections", "phase_weight": "phase"},
    "contextualloss": {"layer_weights": "layers", "band_width": "bandwidth"},
}
SCALES = ("scale", "upscale", "up_scale", "upscaling_factor", "upscale_factor", "upsampling")


def convert(given: Given, gpus: int | None = None) -> dict[str, Any]:
    """Return the options of sr. Keys without counterpart stay in `given`."""
    known = NEOSR if given.peek("model_type") in NEOSR_MODELS else NETWORKS
    kind, scale, name = model_type(given), given.need("scale"), str(given.take("name", "imported"))
    adversarial = TASKS[kind] != "psnr"
    options: dict[str, Any] = {
        "name": re.sub(r"^\W", "_", re.sub(r"[^\w.-]", "_", name)),
        "task": TASKS[kind],
        "scale": scale,
        "seed": given.take("manual_seed", 0),
        "generator": (generator := network(given, scale, known)),
        "discriminator": discriminator(given, (generator or {}).get("num_out_ch", 3)) if adversarial else None,
        "init": initial(given),
        "losses": losses(given, kind),
        "degrade": degradation(given, kind),
        "augment": augment(given),
        "data": data(given, gpus, name, scale),
        "optimizer": {
            player: part(given, f"train.optim_{player[0]}", "optimizers", silent={"betas": [0.9, 0.999]})
            for player in ("generator", "discriminator")[: 1 + adversarial]
        },
        "schedule": schedule(given),
        "train": train(given),
        "validation": validation(given, scale),
        "save": {"every": int(given.take("logger.save_checkpoint_freq", 5000))},
        "log": {"every": int(given.take("logger.print_freq", 100))},
    }
    for section in () if adversarial else ("network_d", "train.optim_d"):
        given.drop(section, "there is no adversarial loss, so no discriminator is trained")
    given.expect("train.net_d_iters", 1, "both players update at every step")
    given.expect("train.net_d_init_iters", 0, "both players start at step 1; gan.weight may ramp up")
    return without_nothing(options)


def model_type(given: Given) -> str:
    """Return the kind of training, in the names of BasicSR."""
    kind = given.take("model_type")
    if kind is None or kind in NEOSR_MODELS:  # the losses show the task; LR inputs are never sharpened
        kind = "SRGANModel" if "train.gan_opt" in given else "SRModel"
    if kind not in TASKS:
        raise UserError(f"model_type {kind} trains in a way that is not here; known: {', '.join(TASKS)}")
    return str(kind)


def network(given: Given, scale: int, known: dict[str, Network]) -> dict[str, Any] | None:
    """Return the generator: of sr, of spandrel, or of the package basicsr."""
    kind = given.need("network_g.type")
    found = known.get(str(kind)) or Network(TYPES["generators"].get(plain(kind), f"basicsr.{kind}"), {})
    implied: dict[str, Any] = {**dict.fromkeys(SCALES, scale), **found.implied}
    try:
        made = fitted(given, "network_g", "generators", {"type": found.type} | found.sizes, found.renamed, implied)
    except UserError as error:
        reason = str(error) if "pip install" in str(error) else "neither sr nor spandrel nor basicsr has it"
        given.drop("network_g", f"of {kind}, which is not here")
        given.remarks["network_g.type"] = f"{kind}: {reason}"
        return None
    for key in ("num_in_ch", "num_out_ch", "in_chans", "in_channels", "out_channels"):
        given.expect(f"network_g.{key}", 3, f"{made['type']} is for RGB images")
    return made


def discriminator(given: Given, channels: int) -> dict[str, Any] | None:
    """Return the discriminator, whose channels are those of the generator's output."""
    return part(given, "network_d", "discriminators", num_in_ch=channels, input_nc=channels)


def train(given: Given) -> dict[str, Any]:
    amp, bf16 = given.take("train.use_amp"), given.take("train.amp_bf16", False)
    norm = given.take("train.grad_clip_max_norm", 1.0)
    return {
        "total_steps": int(given.need("train.total_iter")),
        "accumulate": accumulate if (accumulate := int(given.take("datasets.train.accum_iter", 1))) > 1 else None,
        "precision": None if amp is None else ("bf16" if bf16 else "fp16") if amp else "fp32",
        "channels_last": given.take("train.channels_last"),
        "compile": given.take("train.compile"),
        "clip_norm": norm if given.take("train.grad_clip", False) else None,
        "ema_decay": given.take("train.ema_decay", 0),
    }


def initial(given: Given) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for player in ("generator", "discriminator"):
        file = given.take(f"path.pretrain_network_{player[0]}")
        strict = given.take(f"path.strict_load_{player[0]}", True)
        if file:
            found[player] = file if strict else {"file": file, "strict": False}
    return found


def losses(given: Given, kind: str) -> dict[str, Any]:
    weight = {"loss_weight": "weight"}
    found = {"pixel": term(given, "train.pixel_opt", weight), "perceptual": perceptual(given, "train.perceptual_opt")}
    for key in [key for key in given.keys("train") if key.endswith("_opt")]:
        if key not in ("pixel_opt", "perceptual_opt", "gan_opt"):
            found[key.removesuffix("_opt")] = term(given, f"train.{key}", weight)
    return found | {"gan": gan(given, kind, weight)}


def gan(given: Given, kind: str, weight: dict[str, str]) -> dict[str, Any] | None:
    if "train.gan_opt" in given and "train.gan_opt.gan_type" not in given:
        given.values["train"]["gan_opt"]["gan_type"] = "vanilla"
    given.take("train.gan_opt.type")
    fixed: dict[str, Any] = {}
    labels = {"real_label_val": "real_label", "fake_label_val": "fake_label"}
    if kind == "ESRGANModel" or given.peek("train.gan_opt.gan_type") not in ("vanilla", "lsgan"):
        fixed, labels = {"real_label_val": 1.0, "fake_label_val": 0.0}, {}
    found = part(given, "train.gan_opt", "gan", type_key="gan_type", renamed=weight | labels, **fixed)
    if found and kind == "ESRGANModel":
        found |= {"type": "relativistic", "base": found["type"]}
        if found["base"] == "lsgan":
            given.remarks["train.gan_opt.gan_type"] = "relativistic over lsgan has labels 1 and -1 here, there 1 and 0"
    return found and slim(found, "gan")


def term(given: Given, path: str, renamed: dict[str, str]) -> dict[str, Any] | None:
    """Return a loss on the output."""
    kind = given.peek(f"{path}.type")
    if kind is None:
        return None
    if given.peek(f"{path}.loss_weight") == 0:
        given.drop(path, "has weight 0")
        return None
    if path.endswith(("ldl_opt", "artifacts_opt")) and plain(kind) in ("l1loss", "ldlloss"):
        given.take(f"{path}.type")
        return fitted(given, path, "losses", {"type": "ldl"}, renamed, {"reduction": "mean", "criterion": "l1"})
    renamed = renamed | _RENAMED.get(plain(kind), {})
    found = part(given, path, "losses", renamed=renamed, reduction="mean")
    if found is None:
        given.drop(path, f"of {kind}, which is not here")
    elif found["type"] == "fdl":
        given.expect(f"{path}.model", "vgg", "`backbone` names the network; vgg19 is taken")
    elif found["type"] == "ms_ssim":
        given.remarks[f"{path}.type"] = f"{kind} compares in Y'IQ, ms_ssim in RGB"
    return found


def perceptual(given: Given, path: str) -> dict[str, Any] | None:
    if given.take(f"{path}.type") is None:
        return None
    backbone, criterion = given.take(f"{path}.vgg_type", "vgg19"), given.take(f"{path}.criterion", "l1")
    weight = given.take(f"{path}.perceptual_weight", given.take(f"{path}.loss_weight", 1.0))
    style = given.take(f"{path}.style_weight", 0)
    if not weight and not style:
        given.drop(path, "has weight 0")
        return None
    given.expect(f"{path}.use_input_norm", True, "images are always normalised as ImageNet's")
    given.expect(f"{path}.range_norm", False, "images are 0..1")
    if criterion not in ("l1", "l2", "charbonnier"):
        given.remarks[f"{path}.criterion"] = f"{criterion} is not here; l1 is taken in its place"
        criterion = "l1"
    found = {"layers": given.take(f"{path}.layer_weights"), "weight": weight or style}
    if (backbone, criterion, style) == ("vgg19", "l1", 0):
        return slim({"type": "vgg19"} | found, "losses")
    found |= {"backbone": backbone, "distance": criterion}
    if not weight:
        return slim({"type": "style"} | found, "losses")
    return slim({"type": "perceptual"} | found | {"style_weight": style / weight}, "losses")


def augment(given: Given) -> list[dict[str, Any]] | None:
    """Return the mixing augmentations of traiNNer-redux (`moa_augs`) or neosr (`augmentation`)."""
    names, shares = ("train.moa_augs", "train.moa_probs")
    if not given.take("train.use_moa"):
        names, shares = ("datasets.train.augmentation", "datasets.train.aug_prob")
    kinds, probs = given.peek(names), given.peek(shares)
    if not isinstance(kinds, list):
        return None
    probs = probs if isinstance(probs, list) else [1.0] * len(kinds)
    rows = [
        (kind, prob) for kind, prob in zip(kinds, probs, strict=False) if isinstance(prob, int | float) and prob > 0
    ]
    total = sum(prob for _, prob in rows)
    known = TABLES["augment"].rows
    found = [{"type": kind, "prob": round(prob / total, 4)} for kind, prob in rows if str(kind) in known]
    given.take(names), given.take(shares)
    if found:
        given.remarks[names] = "there one of them is drawn for each batch, here each sample draws every one"
    return found or None


# ---- degradation -----------------------------------------------------------------------------------------------------


def degradation(given: Given, kind: str) -> list[dict[str, Any]]:
    """Return the stages of Real-ESRGAN's two rounds and its final stage; none for pairs."""
    synthetic = given.take("high_order_degradation", True) and "resize_prob" in given
    sharp = sharpening(given, kind, synthetic)
    if not synthetic:
        return []
    given.expect("gt_size", given.peek("datasets.train.gt_size"), "data.gt_size is that of datasets.train")
    first, (*second, jpeg) = one_round(given, ""), one_round(given, "2")
    downscale, sinc = {"type": "downscale"}, {"type": "sinc", "prob": given.take("datasets.train.final_sinc_prob", 0.8)}
    choices = [active([downscale, sinc, jpeg]), active([jpeg, downscale, sinc])]
    end = choices[0] if choices[0] == choices[1] else [{"type": "one_of", "choices": choices}]
    return [*active([*sharp, *first, *second]), *end]


def active(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages with a probability above 0, without the defaults."""
    return [slim(stage, "degrade") for stage in stages if stage.get("prob", 1) != 0]


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
        given.remarks["l1_gt_usm"] = "pairs are trained on their ground truth; sharpen the files beforehand"
    return [{"type": "sharpen", "target": pixel}]


def one_round(given: Given, n: str) -> list[dict[str, Any]]:
    """Return blur, resize, noise and jpeg of the first (n = '') or second (n = '2') round."""
    train = "datasets.train."
    names, shares = given.take(f"{train}kernel_list{n}", []), given.take(f"{train}kernel_prob{n}", [])
    given.expect(f"{train}blur_kernel_size{n}", 21, "kernels are 7 to 21 wide")
    up, down, keep = given.need(f"resize_prob{n}")
    total = up + down + keep
    blurred = given.take(f"blur_prob{n}", given.take("second_blur_prob") if n else None)
    sigma, poisson = given.take(f"noise_range{n}"), given.take(f"poisson_scale_range{n}")
    gaussian, gray = given.take(f"gaussian_noise_prob{n}"), given.take(f"gray_noise_prob{n}")
    noise = {"gaussian_prob": gaussian, "sigma": sigma, "poisson_scale": poisson, "gray_prob": gray}
    silent = sigma == [0, 0] and poisson == [0, 0]
    return [
        {
            "type": "blur",
            "prob": 1.0 if blurred is None else blurred,
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
            "modes": resize_modes(given, f"resize_mode_list{n}"),
            "relative_to": "lq" if n else "current",
        },
        {"type": "noise", "prob": 0} if silent else {"type": "noise"} | noise,
        {"type": "jpeg", "prob": given.take(f"jpeg_prob{n}", 1.0), "quality": given.take(f"jpeg_range{n}")},
    ]


def resize_modes(given: Given, path: str) -> list[str] | None:
    """Return the resize modes that are available; None for the default."""
    named = given.take(path)
    if named is None:
        return None
    ours = [str(mode).replace("nearest-exact", "nearest") for mode in named]
    kept = [mode for mode in ours if mode in ("area", "bilinear", "bicubic", "nearest", "lanczos")]
    if kept != ours:
        left_out = ", ".join(mode for mode in ours if mode not in kept)
        given.remarks[path] = f"{left_out} are not here"
    return kept or None


# ---- data, schedule, validation --------------------------------------------------------------------------------------


def processes(given: Given, name: str) -> int:
    """Return num_gpu; if that is `auto`, the 4 in a name like train_B12G4, else 1."""
    number, named = given.take("num_gpu"), re.search(r"B\d+G(\d+)", name)
    if isinstance(number, int):
        return max(1, number)
    if named is None:
        given.remarks["num_gpu"] = "auto gives no number, so batch_size is that of one; pass --gpus N for N"
    return int(named[1]) if named else 1


def data(given: Given, gpus: int | None, name: str, scale: int) -> dict[str, Any]:
    train, named = "datasets.train.", processes(given, name)
    kind, size = given.take(f"{train}type"), given.take(f"{train}lq_size")
    size = given.need(f"{train}gt_size") if size is None else size * scale
    source = {"type": "folder", "gt": folder(given, f"{train}dataroot_gt"), "lq": folder(given, f"{train}dataroot_lq")}
    if source["lq"] == source["gt"]:
        given.remarks[f"{train}dataroot_lq"] = "is the folder of gt too; name under source the folder of each"
    if "video" in plain(kind):
        given.remarks[f"{train}type"] = f"{kind} reads clips; samples are single images"
    given.expect(f"{train}filename_tmpl", "{}", "partners have one name, lq maybe with _x4")
    given.expect(f"{train}color", None, "channels follow the generator; one channel is the luma of JPEG, 0..255")
    accumulated = int(given.peek(f"{train}accum_iter") or 1)
    return {
        "source": source,
        "degrade_size": max(400, size) if kind == "RealESRGANDataset" else None,
        "gt_size": size,
        "batch_size": given.need(f"{train}batch_size_per_gpu") * accumulated * (gpus or named),
        "workers": given.take(f"{train}num_worker_per_gpu", 4),
        "flip": given.take(f"{train}use_hflip", True),
        "rotate": given.take(f"{train}use_rot", False),
    }


def folder(given: Given, path: str) -> str | list[str] | None:
    """Return a folder or several; an LMDB is replaced by the folder of the same name."""
    named: Any = given.take(path)
    folders = named if isinstance(named, list) else [named] if named else []
    databases = [str(name) for name in folders if str(name).endswith(".lmdb")]
    if databases:
        given.remarks[path] = f"{databases[0]} is an LMDB, which is not read; the folder of the same name is taken"
    found = [str(name).removesuffix(".lmdb") for name in folders]
    return found if len(found) > 1 else found[0] if found else None


def schedule(given: Given) -> dict[str, Any] | None:
    path = "train.scheduler"
    kind = plain(given.peek(f"{path}.type"))
    length = given.take(f"{path}.T_max")
    if length is not None:
        given.values["train"]["scheduler"]["periods"] = [length]
    periods = given.peek(f"{path}.periods") or []
    silent = {"gamma": 0.1} if kind.startswith("multistep") else {}
    found = part(given, path, "schedules", silent=silent, restart_weights=[1] * len(periods))
    warmup = given.take("train.warmup_iter", -1)
    return found and (found | {"warmup_steps": warmup} if warmup > 0 else found)


def validation(given: Given, scale: int) -> dict[str, Any] | None:
    sets: dict[str, Any] = {}
    for key in [key for key in given.keys("datasets") if key.startswith("val")]:
        given.take(f"datasets.{key}.type")
        given.expect(f"datasets.{key}.filename_tmpl", "{}", "partners have one name, lq maybe with _x4")
        given.expect(f"datasets.{key}.color", None, "channels follow the generator")
        pair = {"hr": folder(given, f"datasets.{key}.dataroot_gt"), "lr": folder(given, f"datasets.{key}.dataroot_lq")}
        name = str(given.take(f"datasets.{key}.name", key))
        if pair["hr"]:
            sets[name] = pair
        else:
            given.remarks[f"datasets.{key}"] = "has no ground truth to compare with; sr upscale makes its images"
    if not sets:
        given.expect("val", None, "there is no validation set with ground truth")
        return None
    measured = metrics(given, scale)
    best = measured[0] if measured else None
    every, images = given.take("val.val_freq"), given.take("val.save_img", True)
    return {
        "sets": sets,
        "every": every and int(every),
        "best": best,
        "metrics": measured if measured[1:] else None,
        "pictures": None if images else 0,
    }


def metrics(given: Given, scale: int) -> list[str]:
    """Return the metrics that sr measures too; the first selects the best model."""
    found: list[str] = []
    for key in given.keys("val.metrics"):
        path = f"val.metrics.{key}"
        given.expect(f"{path}.crop_border", scale, f"the border is the scale, {scale}")
        if given.peek(f"{path}.type") in ("calculate_psnr", "calculate_ssim"):
            metric = given.take(f"{path}.type").removeprefix("calculate_")
            found.append(f"{metric}_{'y' if given.take(f'{path}.test_y_channel') else 'rgb'}")
        elif given.peek(f"{path}.type") in ("calculate_lpips", "calculate_dists", "calculate_niqe"):
            found.append(given.take(f"{path}.type").removeprefix("calculate_"))
        else:
            given.remarks[path] = "psnr, ssim, lpips, dists and niqe are measured"
            given.take(path)
    return list(dict.fromkeys(found))


# ---- the result ------------------------------------------------------------------------------------------------------


def without_nothing(node: Any) -> Any:
    """Return mappings without values that are None or empty."""
    if isinstance(node, list):
        return [without_nothing(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: without_nothing(value) for key, value in node.items()}
    return {key: value for key, value in kept.items() if value is not None and value not in ({}, [])}


def problems(options: dict[str, Any]) -> list[registry.Problem]:
    found = registry.check_model(Options, options, TABLES)
    return found or contradictions(Options.model_validate(options))
