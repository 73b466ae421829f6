"""Mutated input of `sr report`, `sr convert`, and videos and tars in `sr upscale`; see `fuzz_inputs`."""

import random
import shutil
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
import numpy as np
import yaml
from fuzz_inputs import ACCEPTED, Images, Tars, demand, photo, run

KERNELS = {"kernel_list": ["iso", "aniso"], "kernel_prob": [0.5, 0.5], "sinc_prob": 0.1, "blur_sigma": [0.2, 3]}
KERNELS |= {"blur_kernel_size": 21, "betag_range": [0.5, 4], "betap_range": [1, 2]}
CROP = KERNELS | {f"{key}2": value for key, value in KERNELS.items()} | {"final_sinc_prob": 0.8, "gt_size": 64}
BASICSR: dict[str, Any] = {
    "name": "x",
    "model_type": "RealESRGANModel",
    "scale": 2,
    "num_gpu": 1,
    "manual_seed": 0,
    "gt_size": 64,
    "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5],
    "gaussian_noise_prob": 0.5,
    "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3],
    "gray_noise_prob": 0.4,
    "jpeg_range": [30, 95],
    "second_blur_prob": 0.8,
    "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2],
    "gaussian_noise_prob2": 0.5,
    "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2.5],
    "gray_noise_prob2": 0.4,
    "jpeg_range2": [30, 95],
    "datasets": {
        "train": {"name": "a", "type": "RealESRGANDataset", "dataroot_gt": "hr", "batch_size_per_gpu": 2, **CROP},
        "val": {"name": "b", "type": "PairedImageDataset", "dataroot_gt": "hr", "dataroot_lq": "lr"},
    },
    "network_g": {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 8, "skip_connection": True},
    "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
    "train": {
        "ema_decay": 0.999,
        "optim_g": {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
        "optim_d": {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
        "scheduler": {"type": "MultiStepLR", "milestones": [50], "gamma": 0.5},
        "total_iter": 100,
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0},
    },
    "val": {"val_freq": 50, "save_img": False, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}}},
    "logger": {"print_freq": 10, "save_checkpoint_freq": 50, "use_tb_logger": True},
}


class Conversions:
    """Options of BasicSR, mutated as text and as values, through `sr convert`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "given.yml"
        self.file.write_text(yaml.safe_dump(BASICSR))
        code, output = run("convert", self.file)
        demand(code in (0, 1), f"the valid file is refused: {output}")

    def __call__(self, rng: random.Random) -> str:
        if rng.random() < 0.3:
            self.file.write_bytes(mutate.of_bytes(yaml.safe_dump(BASICSR).encode(), rng))
        else:
            broken = mutate.of_tree(BASICSR, rng, alike=rng.random() < 0.5)
            self.file.write_text(yaml.safe_dump(broken, allow_unicode=True))
        code, output = run("convert", self.file)
        demand(code in (0, 1, 2), f"exit code {code}")
        demand(code != 2 or "sr: " in output, f"no sentence: {output[:300]}")
        return output.rpartition("sr: ")[2] if code == 2 else ACCEPTED


class Reports:
    """Folders with one mutated image, through `sr report`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, Images(folder)

    def __call__(self, rng: random.Random) -> str:
        name = rng.choice(sorted(self.images.good))
        data = mutate.of_bytes(rng.choice(self.images.good[name]), rng)
        shutil.rmtree(self.folder / "r", ignore_errors=True)
        for part in ("made", "hr"):
            (self.folder / "r" / part).mkdir(parents=True)
            (self.folder / "r" / part / "whole.png").write_bytes(self.images.whole)
            broken = part == "made" or rng.random() < 0.5
            (self.folder / "r" / part / name).write_bytes(data if broken else self.images.good[name][0])
        page = self.folder / "r" / "page.html"
        code, output = run("report", self.folder / "r/made", "--hr", self.folder / "r/hr", "-o", page)
        demand(page.exists() == (code != 2), f"exit code {code}: {output[:300]}")
        demand(not list((self.folder / "r").rglob("*.tmp")), "half-written output")
        return output if code else ACCEPTED


class Videos:
    """Videos of several containers, mutated, through `sr upscale`."""

    def __init__(self, folder: Path) -> None:
        import av

        self.folder, self.good = folder, {}
        for suffix, codec in ((".mp4", "libx264"), (".mkv", "libx265"), (".avi", "mpeg4"), (".ts", "mpeg2video")):
            path = folder / f"good{suffix}"
            with av.open(str(path), "w") as file:
                video, sound = file.add_stream(codec, rate=25), file.add_stream("mp2", rate=16000)
                video.width, video.height, video.pix_fmt = 44, 40, "yuv420p"
                sound.layout = "mono"
                for number in range(6):
                    file.mux(video.encode(av.VideoFrame.from_ndarray(photo(number), format="rgb24")))
                heard = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
                heard.sample_rate = 16000
                file.mux(video.encode(None) + sound.encode(heard) + sound.encode(None))
            self.good[suffix] = path.read_bytes()

    def __call__(self, rng: random.Random) -> str:
        suffix = rng.choice(sorted(self.good))
        file, made = self.folder / f"v{suffix}", self.folder / "made"
        shutil.rmtree(made, ignore_errors=True)
        file.write_bytes(mutate.of_bytes(self.good[suffix], rng))
        code, output = run("upscale", file, "-o", f"{made}/", "-m", "bicubic", "--scale", 2)
        there = [path for path in made.rglob("*") if path.suffix in (".mp4", ".mkv")]
        demand(len(there) == (0 if "failed" in output or code == 2 else 1), f"exit code {code}: {output[-500:]}")
        demand(not list(self.folder.rglob("*.tmp")), "half-written output")
        return output if code else ACCEPTED


class UpscaledTars:
    """Mutated tars as inputs of `sr upscale`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.good = folder, [data for data, _ in Tars(folder).good]

    def __call__(self, rng: random.Random) -> str:
        tar, made = self.folder / "in.tar", self.folder / "made"
        shutil.rmtree(made, ignore_errors=True)
        tar.write_bytes((mutate.of_bytes if rng.random() < 0.5 else mutate.of_blocks)(rng.choice(self.good), rng))
        code, output = run("upscale", tar, "-o", made, "-m", "bicubic", "--scale", 2)
        demand(code == 0 or "sr: " in output or "failed" in output or "damaged" in output, f"no report: {output[:300]}")
        demand(not list(self.folder.rglob("*.tmp")), "half-written output")
        return output if code else ACCEPTED
