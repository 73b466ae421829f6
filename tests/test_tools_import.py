"""sr/cli/convert/import_options.py on small files in the format of BasicSR and Real-ESRGAN."""

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from sr.cli.convert.import_options import main

from sr.train.builder import Builder, load
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
    code = main([str(file), *arguments])
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
            "images": 0,
        },
        "save": {"every": 5000},
        "log": {"every": 100},
    }
    assert set(rest) == {
        "datasets.train.dataroot_gt",
        "datasets.train.io_backend",
        "datasets.train.dataset_enlarge_ratio",
        "path.pretrain_network_g",
        "logger.wandb",
        "dist_params",
    }
    assert "x2.pth was to be loaded as far as it fits" in rest["path.pretrain_network_g"]
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
    given["val"]["metrics"]["niqe"] = {"type": "calculate_niqe"}
    _, rest = run(given, tmp_path, capsys)
    named = {key for key, why in rest.items() if why == "unknown here"}
    assert named == {
        "odd",
        *(f"{section}.odd" for section in ("network_g", "train", "path", "logger", "val", "datasets.train")),
        *(f"train.{section}.odd" for section in ("optim_g", "scheduler", "pixel_opt", "perceptual_opt", "gan_opt")),
        "val.metrics.psnr.odd",
    }
    assert "val.metrics.niqe" in rest


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
    assert main([str(tmp_path / "x.yml")]) == 2
    assert word in capsys.readouterr().err


def test_what_fails_the_check_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = real_esrgan(network_d={"type": "StyleGAN2Discriminator"})
    (tmp_path / "x.yml").write_text(yaml.safe_dump(given))
    assert main([str(tmp_path / "x.yml")]) == 1
    out, err = capsys.readouterr()
    assert "StyleGAN2Discriminator is not here" in out
    assert "task sr_gan needs 'discriminator'" in err
