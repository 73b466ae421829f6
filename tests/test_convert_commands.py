"""`sr convert` on training commands of pytorch-CycleGAN-and-pix2pix."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from sr.cli import main
from sr.cli.convert.command_line import REASONS

PIX2PIX = "python train.py --dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA"


def converted(command: str, capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> tuple[Any, str]:
    assert main(["convert", command, *more]) == code
    shown = capsys.readouterr()
    options, _, rest = shown.out.partition("\n# Without counterpart:\n")
    return yaml.safe_load(options), rest


def test_pix2pix(capsys: pytest.CaptureFixture[str]) -> None:
    """Its published settings, and the defaults that the model changes."""
    options, rest = converted(PIX2PIX, capsys, "--images", "400")
    assert options == {
        "name": "facades_pix2pix",
        "out": "./checkpoints",
        "task": "pix2pix",
        "generator": {"type": "unet_256", "num_feat": 64, "norm": "batch", "dropout": True},
        "discriminator": {"type": "patchgan", "num_feat": 64, "num_layers": 3, "norm": "batch", "conditional": True},
        "losses": {"l1": {"type": "l1", "weight": 100.0, "range": 2}, "gan": {"type": "vanilla", "weight": 1.0}},
        "data": {
            "source": {"type": "side_by_side", "path": "./datasets/facades/train"},
            **{"load_size": 286, "gt_size": 256, "batch_size": 1, "workers": 4, "direction": "b_to_a"},
        },
        "optimizer": {
            player: {"type": "adam", "lr": 0.0002, "betas": [0.5, 0.999]} for player in ("generator", "discriminator")
        },
        "schedule": {"type": "linear", "constant": 0.5},
        "train": {"total_steps": 80000, "ema_decay": 0},
        "save": {"every": 5000},
        "log": {"every": 100},
    }
    assert rest == ""


def test_cyclegan_counts_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side, count in (("A", 2), ("B", 3)):
        for number in range(count):
            (tmp_path / f"train{side}").mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / f"train{side}" / f"{number}.png")
    command = f"python train.py --dataroot {tmp_path} --name m --model cycle_gan --n_epochs 3 --n_epochs_decay 1 "
    options, rest = converted(command + "--direction BtoA --lambda_B 5 --no_flip --netD pixel --use_wandb", capsys)
    assert options["train"]["total_steps"] == 12
    assert options["schedule"] == {"type": "linear", "constant": 0.75}
    assert options["data"]["source"]["a"]["gt"] == f"{tmp_path}/trainB"
    assert options["cycle"] == {"identity": 0.5, "pool": 50}
    assert options["generator"]["dropout"] is False
    assert options["discriminator"]["num_layers"] == 0
    assert options["log"]["trackers"][1] == {"type": "wandb", "project": "CycleGAN-and-pix2pix"}
    assert rest == "#   --lambda_B: both cycles have one weight, that of --lambda_A\n"


def test_every_flag_is_mapped_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags = " ".join(f"--{name} 1" for name in REASONS)
    more = "--gpu_ids 0,1 --init_type xavier --preprocess none --lr_policy plateau --norm syncbatch --other 3"
    _, rest = converted(f"{PIX2PIX} {flags} {more} --pool_size 50", capsys)
    named = {line.split(": ")[0].removeprefix("#   --") for line in rest.splitlines()}
    assert named >= {*REASONS, "gpu_ids", "init_type", "preprocess", "lr_policy", "norm", "other", "pool_size"}
    assert "n_epochs" in named  # the folder is not here, and --images was not given
    assert "--other: unknown here" in rest


def test_shell_scripts_and_old_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train_colorization.sh"
    script.write_text(
        "set -ex\n# python train.py old\npython train.py --dataroot ./d --name c \\\n"
        "  --model colorization --niter 5 --batchSize 2\n"
    )
    options, _ = converted(str(script), capsys, "--images", "10")
    assert options["data"]["source"] == {"type": "colorize", "of": {"type": "folder", "gt": "./d/train"}}
    assert (options["generator"]["num_in_ch"], options["generator"]["num_out_ch"]) == (1, 2)
    assert options["train"]["total_steps"] == 5 * 105


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train.py --name x", "the command has no --dataroot; add it"),
        ("python train.py --dataroot d --model test", "--model test does not train here; known: cycle_gan, pix2pix"),
        ("python train.py --dataroot d --batch_size many", "argument --batch_size/--batchSize: invalid int value"),
        ("python train.py --dataroot 'd", "the command is not a shell command (No closing quotation); correct it"),
        ("python train.py --dataroot d --gan_mode x", "--gan_mode x is not here; known: vanilla, lsgan, wgangp"),
        ("nothing.sh", "nothing.sh cannot be read (No such file or directory); correct the path"),
    ],
)
def test_what_cannot_be_converted(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", command]) == 2
    assert message in capsys.readouterr().err
