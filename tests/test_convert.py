"""`sr convert` on small files in the formats of BasicSR, Real-ESRGAN, traiNNer-redux and neosr."""

import copy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from sr.cli import main
from sr.cli.convert.networks import NEOSR, NETWORKS
from sr.config.registry import check
from sr.train.builder import TABLES, Builder, load
from sr.train.summary import summary
from tests.helpers.importing import ADAM, PAIRS
from tests.helpers.program import ROOT


def real_esrgan(**changes: Any) -> dict[str, Any]:
    """Real-ESRGAN's training file, its published numbers in its own keys."""
    given = copy.deepcopy(PAIRS)
    kinds = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
    train = given["datasets"]["train"]
    del train["dataroot_lq"]
    train |= {"type": "RealESRGANDataset", "dataroot_gt": "datasets/DF2K", "meta_info": "list.txt", "gt_size": 256}
    train["batch_size_per_gpu"] = 12
    given |= {"name": "train_B12G4", "model_type": "RealESRGANModel", "num_gpu": "auto", "queue_size": 180}
    given |= {"l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False, "gt_size": 256}
    for n, sigma, resize, factor, noise, poisson in (
        ("", [0.2, 3], [0.2, 0.7, 0.1], [0.15, 1.5], [1, 30], [0.05, 3]),
        ("2", [0.2, 1.5], [0.3, 0.4, 0.3], [0.3, 1.2], [1, 25], [0.05, 2.5]),
    ):
        train |= {
            f"blur_kernel_size{n}": 21,
            f"kernel_list{n}": kinds,
            f"kernel_prob{n}": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
            f"sinc_prob{n}": 0.1,
            f"blur_sigma{n}": sigma,
            f"betag_range{n}": [0.5, 4],
            f"betap_range{n}": [1, 2],
        }
        given |= {
            f"resize_prob{n}": resize,
            f"resize_range{n}": factor,
            f"gaussian_noise_prob{n}": 0.5,
            f"noise_range{n}": noise,
            f"poisson_scale_range{n}": poisson,
            f"gray_noise_prob{n}": 0.4,
            f"jpeg_range{n}": [30, 95],
        }
    train["final_sinc_prob"] = given["second_blur_prob"] = 0.8
    given["network_g"] = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 23}
    given["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 64, "skip_connection": True}
    given["path"] = {"pretrain_network_g": "RealESRNet.pth", "param_key_g": "params_ema", "strict_load_g": True}
    layers = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    given["train"] |= {
        "optim_d": ADAM,
        "scheduler": {"type": "MultiStepLR", "milestones": [400000], "gamma": 0.5},
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        "perceptual_opt": {
            "type": "PerceptualLoss",
            "layer_weights": layers,
            "vgg_type": "vgg19",
            "use_input_norm": True,
            "perceptual_weight": 1.0,
            "style_weight": 0,
            "range_norm": False,
            "criterion": "l1",
        },
        "gan_opt": {
            "type": "GANLoss",
            "gan_type": "vanilla",
            "real_label_val": 1.0,
            "fake_label_val": 0.0,
            "loss_weight": 0.1,
        },
        "net_d_iters": 1,
        "net_d_init_iters": 0,
    }
    return given | changes


def run(
    given: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """(our options, what has no counterpart) as printed; they pass the check."""
    file, ours = tmp_path / "given.yml", tmp_path / "ours.yml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    code = main(["convert", str(file), *arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    ours.write_text(out)
    summary(load(ours))
    ours.write_text(Builder(load(ours)).resolved())
    assert Builder(load(ours)).resolved() == ours.read_text()
    rest = [line[4:].split(": ", 1) for line in out.splitlines() if line.startswith("#   ")]
    return yaml.safe_load(out), {key: why for key, why in rest}


def test_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, rest = run(PAIRS, tmp_path, capsys)
    assert options == {
        "name": "pairs_x4",
        "task": "psnr",
        "scale": 4,
        "seed": 3,
        "generator": {"type": "edsr", "num_feat": 32, "res_scale": 0.1},
        "init": {"generator": {"file": "x2.pth", "strict": False}},
        "losses": {"pixel": {"type": "charbonnier", "eps": 1e-6, "weight": 2}},
        "data": {
            "source": {"type": "folder", "gt": "data/gt", "lq": "data/lq"},
            "gt_size": 128,
            "batch_size": 32,
            "workers": 6,
            "flip": True,
            "rotate": True,
        },
        "optimizer": {"generator": {"type": "adam", "lr": 1e-4}},
        "schedule": {"type": "cosine", "periods": [10, 10]},
        "train": {"total_steps": 20, "ema_decay": 0.999},
        "validation": {
            "sets": {"Set5": {"hr": "set5/hr", "lr": "set5/lr"}},
            "every": 5000,
            "best": "psnr_y",
            "pictures": 0,
        },
        "save": {"every": 5000},
        "log": {"every": 100},
    }
    assert set(rest) == {
        "datasets.train.dataroot_gt",
        "datasets.train.io_backend",
        "datasets.train.dataset_enlarge_ratio",
        "logger.wandb",
        "dist_params",
    }
    assert "unknown here" not in rest.values()


def test_real_esrgan_is_our_own_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, rest = run(real_esrgan(), tmp_path, capsys)
    ours, recipe = load(tmp_path / "ours.yml"), load(ROOT / "options" / "realesrgan_x4.yml")
    assert yaml.safe_load(Builder(ours).resolved())["degrade"] == yaml.safe_load(Builder(recipe).resolved())["degrade"]
    assert ours.data.batch_size == recipe.data.batch_size == 48  # 12 on each of the name's 4 GPUs
    assert (ours.degrade_size, ours.data.gt_size) == (400, 256)
    assert options["losses"] == {
        "pixel": {"type": "l1"},
        "perceptual": {"type": "vgg19"},
        "gan": {"type": "vanilla", "weight": 0.1},
    }
    assert options["init"] == {"generator": "RealESRNet.pth"}
    assert {"queue_size", "path.param_key_g", "datasets.train.meta_info"} < set(rest)
    assert "unknown here" not in rest.values()


@pytest.mark.slow
def test_sharpening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, rest = run(real_esrgan(l1_gt_usm=False, gan_gt_usm=True), tmp_path, capsys)
    assert options["degrade"][0] == {"type": "sharpen", "target": False}
    assert {"percep_gt_usm", "gan_gt_usm"} < set(rest)
    paired = real_esrgan(high_order_degradation=False)
    paired["datasets"]["train"] |= {"type": "RealESRGANPairedDataset", "dataroot_lq": "datasets/DF2K"}
    options, rest = run(paired, tmp_path, capsys, "--gpus", "3")
    assert "degrade" not in options
    assert options["data"]["batch_size"] == 36
    assert {"l1_gt_usm", "datasets.train.dataroot_lq"} < set(rest)


def test_esrgan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = real_esrgan(model_type="ESRGANModel", network_d={"type": "VGGStyleDiscriminator", "num_in_ch": 3})
    given["train"]["perceptual_opt"] |= {"style_weight": 3, "perceptual_weight": 2, "criterion": "l2"}
    given["train"]["optim_d"] = {"type": "Adam", "lr": 1e-4}
    options, _ = run(given, tmp_path, capsys)
    assert options["discriminator"] == {"type": "vgg"}
    assert options["losses"]["gan"] == {"type": "relativistic", "weight": 0.1}
    perceptual = options["losses"]["perceptual"]
    assert {**perceptual, "layers": None} == {
        "type": "perceptual",
        "layers": None,
        "weight": 2,
        "distance": "l2",
        "style_weight": 1.5,
    }
    assert options["optimizer"]["discriminator"]["betas"] == [0.9, 0.999]  # torch's, where the file is silent


@pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr is an extra")
def test_other_networks_come_from_basicsr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = copy.deepcopy(PAIRS)
    given["network_g"] = {"type": "SwinIR", "upscale": 4, "img_size": 48, "window_size": 8, "upsampler": "pixelshuffle"}
    options, _ = run(given, tmp_path, capsys)
    assert options["generator"] == {"type": "basicsr.SwinIR", "img_size": 48, "window_size": 8} | {
        "upsampler": "pixelshuffle"
    }


def test_validation_without_a_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = copy.deepcopy(PAIRS)
    del given["datasets"]["val"]
    options, rest = run(given, tmp_path, capsys)
    assert "validation" not in options
    assert "val" in rest


def test_every_key_is_mapped_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = real_esrgan(odd=1)
    for section in ("network_g", "train", "path", "logger", "val"):
        given[section]["odd"] = 1
    for section in ("optim_g", "scheduler", "pixel_opt", "perceptual_opt", "gan_opt"):
        given["train"][section] = given["train"][section] | {"odd": 1}
    given["datasets"]["train"]["odd"] = given["val"]["metrics"]["psnr"]["odd"] = 1
    given["val"]["metrics"]["fid"] = {"type": "calculate_fid"}
    _, rest = run(given, tmp_path, capsys)
    named = {key for key, why in rest.items() if why == "unknown here"}
    assert named == {
        "odd",
        *(f"{section}.odd" for section in ("network_g", "train", "path", "logger", "val", "datasets.train")),
        *(f"train.{section}.odd" for section in ("optim_g", "scheduler", "pixel_opt", "perceptual_opt", "gan_opt")),
        "val.metrics.psnr.odd",
    }
    assert "val.metrics.fid" in rest


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "StyleGAN2Model"}, "known: SRModel"),
        ({"network_g": None}, "no 'network_g'"),
        ({"scale": None}, "no 'scale'"),
    ],
)
def test_files_that_cannot_be_imported(
    changes: dict[str, Any], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yml").write_text(yaml.safe_dump(PAIRS | changes))
    assert main(["convert", str(tmp_path / "x.yml")]) == 2
    assert word in capsys.readouterr().err


def test_what_would_not_pass_the_check_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = real_esrgan(network_d={"type": "StyleGAN2Discriminator"})
    (tmp_path / "x.yml").write_text(yaml.safe_dump(given))
    assert main(["convert", str(tmp_path / "x.yml")]) == 1
    out, err = capsys.readouterr()
    assert "StyleGAN2Discriminator is not here" in out
    assert "task sr_gan needs 'discriminator'" in err


def test_networks_keep_what_their_constructors_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ECBSR of basicsr has no default for its channels."""
    pytest.importorskip("basicsr")
    given = copy.deepcopy(PAIRS)
    ecbsr = {"num_block": 1, "num_channel": 4, "with_idt": False, "act_type": "prelu"}
    for channels in (1, 3):
        given["network_g"] = {"type": "ECBSR", "num_in_ch": channels, "num_out_ch": channels, "scale": 4} | ecbsr
        options, rest = run(given, tmp_path, capsys)
        assert options["generator"] == {"type": "basicsr.ECBSR", "num_in_ch": channels, "num_out_ch": channels} | ecbsr
        assert not any(key.startswith("network_g") for key in rest)


def test_grey_networks_stay_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = copy.deepcopy(PAIRS)
    given["network_g"] = {"type": "RRDBNet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1}
    given["datasets"]["train"]["color"] = "y"
    options, rest = run(given, tmp_path, capsys)
    assert options["generator"] == {"type": "rrdbnet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1}
    assert "luma" in rest["datasets.train.color"]


def test_ldl_and_sets_without_ground_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = real_esrgan()
    given["train"]["ldl_opt"] = {"type": "L1Loss", "loss_weight": 2.0, "reduction": "mean"}
    given["datasets"]["val"] = {"name": "real", "type": "SingleImageDataset", "dataroot_lq": "real/lr"}
    options, rest = run(given, tmp_path, capsys)
    assert options["losses"]["ldl"] == {"type": "ldl", "weight": 2}
    assert "validation" not in options
    assert "no ground truth" in rest["datasets.val"]
    assert "unknown here" not in rest.values()


REDUX = """
name: 4x_SPAN
scale: 4
use_amp: true
amp_bf16: true
use_channels_last: false
use_compile: true
compile_mode: default
num_gpu: 2
high_order_degradation: true
thicklines_prob: 0.0
blur_prob: 0.0
resize_prob: [0.2, 0.7, 0.1]
resize_mode_list: [bilinear, bicubic, lanczos]
resize_mode_prob: [0.5, 0.25, 0.25]
resize_range: [0.4, 1.5]
gaussian_noise_prob: 0.0
noise_range: [0, 0]
poisson_scale_range: [0, 0]
gray_noise_prob: 0.0
jpeg_prob: 1.0
jpeg_range: [75, 95]
blur_prob2: 0.5
resize_prob2: [0.3, 0.4, 0.3]
resize_range2: [0.6, 1.2]
gaussian_noise_prob2: 0
noise_range2: [0, 0]
poisson_scale_range2: [0, 0]
gray_noise_prob2: 0.0
jpeg_prob2: 0.5
jpeg_range2: [75, 95]
datasets:
  train:
    type: realesrgandataset
    dataroot_gt: [a/hr, b/hr]
    blur_kernel_size: 12
    kernel_list: [iso, aniso]
    kernel_prob: [0.5, 0.5]
    sinc_prob: 0.0
    kernel_list2: [iso]
    kernel_prob2: [1.0]
    final_sinc_prob: 0.0
    lq_size: 64
    use_rot: true
    num_worker_per_gpu: 8
    batch_size_per_gpu: 8
    accum_iter: 2
  val: {name: v, type: pairedimagedataset, dataroot_gt: [v/hr], dataroot_lq: [v/lr]}
network_g: {type: span_s, norm: false}
network_d: {type: dunet}
path: {pretrain_network_g: span.pth, strict_load_g: false}
train:
  use_moa: true
  moa_augs: [none, mixup, cutmix, resizemix, cutblur]
  moa_probs: [0.4, 0.1, 0.1, 0.1, 0.3]
  ema_decay: 0.999
  ema_power: 0.75
  grad_clip: true
  grad_clip_max_norm: 100
  optim_g: {type: AdamW, lr: 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  optim_d: {type: AdamW, lr: 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingLR, T_max: 1000, eta_min: 1e-6}
  total_iter: 1000
  losses:
    - {type: charbonnierloss, loss_weight: 1.0}
    - {type: mssimloss, loss_weight: 0.5}
    - {type: perceptualloss, criterion: charbonnier, loss_weight: 0.01}
    - {type: hsluvloss, criterion: l1, loss_weight: 1.0}
    - {type: distsloss, loss_weight: 0}
    - {type: ganloss, gan_type: vanilla, loss_weight: 0.1}
val: {val_enabled: true, val_freq: 1000, metrics: {topiq: {type: calculate_topiq}}}
logger: {print_freq: 100, save_checkpoint_freq: 1000, save_checkpoint_format: safetensors}
"""


def test_trainner_redux(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, rest = run(yaml.safe_load(REDUX), tmp_path, capsys)
    assert (options["task"], options["scale"]) == ("sr_gan", 4)
    assert options["generator"]["type"] == "spandrel.SPAN"
    assert options["discriminator"] == {"type": "unet_sn"}
    assert options["init"] == {"generator": {"file": "span.pth", "strict": False}}
    assert options["losses"] == {
        "perceptual": {"type": "perceptual", "weight": 0.01, "distance": "charbonnier"},
        "charbonnier": {"type": "charbonnier"},
        "mssim": {"type": "ms_ssim", "weight": 0.5},
        "gan": {"type": "vanilla", "weight": 0.1},
    }
    kinds = [stage["type"] for stage in options["degrade"]]
    assert kinds == ["resize", "jpeg", "blur", "resize", "one_of"]
    assert options["degrade"][0]["modes"] == ["bilinear", "bicubic", "lanczos"]
    assert options["degrade"][2]["prob"] == 0.5
    assert [stage["type"] for stage in options["degrade"][-1]["choices"][0]] == ["downscale", "jpeg"]
    kinds = {"mixup": 0.1, "cutmix": 0.1, "resizemix": 0.1, "cutblur": 0.3}
    assert options["augment"] == [{"type": kind, "prob": prob} for kind, prob in kinds.items()]
    data = options["data"]
    assert data["source"]["gt"] == ["a/hr", "b/hr"]
    assert (data["gt_size"], data["batch_size"]) == (256, 32)  # 8 a GPU, 2 GPUs, 2 accumulated
    assert options["train"] == {
        "total_steps": 1000,
        "accumulate": 2,
        "precision": "bf16",
        "channels_last": False,
        "compile": True,
        "clip_norm": 100,
        "ema_decay": 0.999,
    }
    assert options["schedule"] == {"type": "cosine", "eta_min": 1e-6, "periods": [1000]}
    assert options["validation"]["sets"] == {"v": {"hr": "v/hr", "lr": "v/lr"}}
    assert {"network_d.type", "train.losses.hsluvloss.type", "train.losses.distsloss.type"} < set(rest)
    assert {"compile_mode", "thicklines_prob", "val.metrics.topiq"} < set(rest)
    assert "unknown here" not in rest.values()


def test_every_network_of_the_table_is_what_spandrel_builds() -> None:
    for known in (NETWORKS, NEOSR):
        for name, network in known.items():
            assert check({"type": network.type} | network.sizes, "generators", TABLES) == [], name


NEOSR_FILE = r"""
name = "train_span"
model_type = "otf"
scale = 4
use_amp = true
bfloat16 = true
[datasets.train]
type = "otf"
dataroot_gt = 'C:\datasets\gt\'
patch_size = 64
batch_size = 8
augmentation = [ "none", "mixup" ]
[datasets.val]
name = "val"
type = "paired"
dataroot_gt = 'hr'
dataroot_lq = 'lr'
[degradations]
resize_prob = [ 0.3, 0.4, 0.3 ]
resize_range = [ 0.5, 1.5 ]
gaussian_noise_prob = 0.2
noise_range = [ 0, 2 ]
poisson_scale_range = [ 0.05, 0.25 ]
gray_noise_prob = 0.1
jpeg_range = [ 40, 95 ]
second_blur_prob = 0.4
resize_prob2 = [ 0.3, 0.4, 0.3 ]
resize_range2 = [ 0.3, 1.5 ]
gaussian_noise_prob2 = 0.2
noise_range2 = [ 0, 2 ]
poisson_scale_range2 = [ 0.05, 0.1 ]
gray_noise_prob2 = 0.1
jpeg_range2 = [ 35, 95 ]
blur_kernel_size = 7
kernel_list = [ "iso" ]
kernel_prob = [ 1.0 ]
kernel_list2 = [ "aniso" ]
kernel_prob2 = [ 1.0 ]
final_sinc_prob = 0.8
[network_g]
type = "span"
[network_d]
type = "metagan"
[train]
ema = 0.999
wavelet_guided = true
[train.optim_g]
type = "adan_sf"
lr = 8e-4
betas = [ 0.98, 0.92, 0.99 ]
schedule_free = true
[train.optim_d]
type = "adan_sf"
lr = 1e-4
betas = [ 0.98, 0.92, 0.99 ]
[train.mssim_opt]
type = "mssim_loss"
loss_weight = 1.0
[train.fdl_opt]
type = "fdl_loss"
model = "dinov2"
[train.ldl_opt]
type = "ldl_loss"
loss_weight = 1.0
[train.gan_opt]
type = "gan_loss"
gan_type = "bce"
loss_weight = 0.3
[logger]
total_iter = 1000
save_checkpoint_freq = 500
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_neosr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "given.toml"
    file.write_text(NEOSR_FILE)
    assert main(["convert", str(file)]) == 0
    out, err = capsys.readouterr()
    options = yaml.safe_load(out)
    assert err == ""
    assert options["generator"]["rgb_mean"] == [0.5, 0.5, 0.5]  # where the two trainers differ
    assert options["losses"] == {
        "mssim": {"type": "ms_ssim"},
        "ldl": {"type": "ldl"},
        "fdl": {"type": "fdl"},
        "gan": {"type": "vanilla", "weight": 0.3},
    }
    assert options["augment"] == [{"type": "mixup", "prob": 0.5}]
    assert options["optimizer"]["generator"] == {"type": "adamw", "lr": 8e-4, "betas": [0.9, 0.999]}
    assert (options["data"]["gt_size"], options["data"]["batch_size"]) == (256, 8)
    assert options["data"]["source"]["gt"] == "C:\\datasets\\gt\\"
    assert (options["train"]["total_steps"], options["train"]["ema_decay"]) == (1000, 0.999)
    for key in ("degradations.blur_kernel_size", "train.optim_g.type", "train.fdl_opt.model", "train.wavelet_guided"):
        assert f"#   {key}: " in out
    assert "unknown here" not in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "is not valid yml"),
        (b"\xff\xfe\x00", "is not valid yml"),
        (b"a: &a [1]\nb: [" + b"*a, " * 30 + b"]", "aliases"),
        (
            b"{network_g: {type: EDSR}, scale: 4, datasets: {train: {gt_size: 8, batch_size_per_gpu: 1}},"
            b" train: {total_iter: x}}",
            "cannot be converted near",
        ),
        (b"x" * (2 << 20), "larger than 1 MiB"),
        (b"- 1", "no 'network_g'"),
        (b"", "no 'network_g'"),
    ],
)
def test_files_that_are_no_options_end_in_one_sentence(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yml").write_bytes(content)
    assert main(["convert", str(tmp_path / "x.yml")]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


def test_a_network_that_nothing_has_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = copy.deepcopy(PAIRS) | {"network_g": {"type": "escrealm", "dim": 64}}
    (tmp_path / "x.yml").write_text(yaml.safe_dump(given))
    assert main(["convert", str(tmp_path / "x.yml")]) == 1
    out, err = capsys.readouterr()
    assert "#   network_g.type: escrealm: neither sr nor spandrel nor basicsr has it" in out
    assert "#   network_g.dim: of escrealm" in out
    assert "needs 'generator'" in err


def test_sections_that_are_empty_do_not_end_the_conversion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = yaml.safe_load(REDUX)
    given["train"] = None
    (tmp_path / "x.yml").write_text(yaml.safe_dump(given))
    assert main(["convert", str(tmp_path / "x.yml")]) == 2
    assert "no 'train.total_iter'" in capsys.readouterr().err
