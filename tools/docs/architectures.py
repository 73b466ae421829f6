"""Write docs/reference/architectures.md: what each architecture of spandrel can do in sr.

`python tools/docs/architectures.py` examines all of them with tiny networks, which takes some minutes, and writes the
file; with names it prints their rows only.
"""

import argparse
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import spandrel
import torch
from torch import Tensor, nn

from sr.config import registry
from sr.core.errors import UserError, first_line
from sr.inference.export import export
from sr.nets.io.load import architecture, open_model
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.spandrel_archs import ARCHITECTURES
from sr.train.builder import TABLES

FILE = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"
SIDE = 32  # of the input
CLOSE = 1e-4  # the difference that counts as the same output
_SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
TINY: dict[str, dict[str, Any]] = {
    "ATD": {**_SWIN, "category_size": 16, "num_tokens": 8, "reducted_dim": 2},
    "CRAFT": {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "split_size_0": 2, "split_size_1": 4},
    "Compact": {"num_feat": 8, "num_conv": 2},
    "DAT": {"embed_dim": 32, "depth": [2, 2], "num_heads": [2, 2]},
    "DCTLSA": {"nf": 10},
    "DITN": {"dim": 12, "ITL_blocks": 1, "SAL_blocks": 1},
    "DRCT": {**_SWIN, "window_size": 8, "gc": 8},
    "DnCNN": {"nc": 8, "nb": 4},
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "FDAT": {"embed_dim": 16, "num_groups": 1, "depth_per_group": 2, "num_heads": 2, "mid_dim": 16},
    "FFTformer": {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1},
    "GRL": {
        **{"embed_dim": 8, "depths": [1, 1], "num_heads_window": [2, 2], "num_heads_stripe": [2, 2]},
        **{"anchor_window_down_factor": 4},
    },
    "HAT": {**_SWIN, "window_size": 8, "compress_ratio": 4, "squeeze_factor": 4},
    "KBNet_l": {"dim": 48, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
    "KBNet_s": {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "MoESR": {"dim": 8, "n_blocks": 1, "n_block": 1},
    "MoSR": {"dim": 16, "n_block": 2, "drop_path": 0.1},
    "NAFNet": {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "OmniSR": {"num_feat": 16},
    "PLKSR": {"dim": 16, "n_blocks": 2},
    "RCAN": {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16},
    "RGT": {"embed_dim": 32, "depth": [2, 2], "num_heads": [2, 2]},
    "RealPLKSR": {"dim": 16, "n_blocks": 2, "dropout": 0.1},
    "RetinexFormer": {"n_feat": 8, "stage": 1},
    "SAFMN": {"dim": 16, "n_blocks": 1},
    "SAFMNBCIE": {"dim": 16, "n_blocks": 1, "num_layers": 1},
    "SCUNet": {"dim": 64, "config": [1] * 7},
    "SPAN": {"feature_channels": 8},
    "SeemoRe": {"num_experts": 2, "num_layers": 2, "embedding_dim": 16},
    "Swin2SR": _SWIN,
    "SwiftSRGAN": {"num_channels": 8, "num_blocks": 1},
    "SwinIR": _SWIN,
}
RESTORE = {"FFTformer", "KBNet_l", "KBNet_s", "NAFNet", "RetinexFormer", "SCUNet", "DnCNN"}
HEAD = f"""# Architectures of spandrel

Train any of these from scratch with `generator: {{type: spandrel.NAME, ...}}`. `scale` sets the scale under the name
that the architecture has for it. Parameters and defaults: `sr schema`, or [Parts](parts.md).

```sh
sr check rrdb_psnr_x4 --set 'generator={{type: spandrel.SPAN, feature_channels: 52}}'
```

Written by `python tools/docs/architectures.py`, which trains a tiny network of each for three steps on a CPU, saves it
and opens it again. *upscales*: `sr upscale` gives the output of training. *spandrel opens*: spandrel gives it as well
(within {CLOSE:g}), which other programs that use spandrel need. *ONNX*: `sr export` writes a file that ONNX Runtime
runs with the same result, at other sizes too.

`sr` reads hyper-parameters from the metadata of its files. spandrel guesses those that the weights do not contain: for
GRL it assumes `window_size: 32`, `stripe_size: [64, 64]` and `stripe_shift: true`, for DCTLSA `num_head: 5`. Use these
values if other programs have to open the model.

| type | scales | trains | upscales | spandrel opens | ONNX |
|---|---|---|---|---|---|
"""


class Found(NamedTuple):
    """Empty: it works. Otherwise what does not."""

    trains: str = ""
    upscales: str = ""
    spandrel: str = ""
    onnx: str = ""


def part(name: str) -> dict[str, Any]:
    """The options of a tiny network."""
    return {"type": f"spandrel.{name}", **TINY.get(name, {})}


def make(name: str, scale: int) -> nn.Module:
    net: nn.Module = registry.make(part(name), "generators", TABLES, scale=scale)
    return net


def scales(name: str) -> list[int]:
    """The scales at which the network can be built and has the right output size."""
    found = []
    for scale in (1, 2, 3, 4, 8):
        try:
            with torch.no_grad():
                made = make(name, scale).eval()(torch.rand(1, 3, SIDE, SIDE))
        except (UserError, RuntimeError):
            continue
        if made.shape == (1, 3, SIDE * scale, SIDE * scale):
            found.append(scale)
    return found


def examine(name: str, scale: int, folder: Path, *, onnx: bool = True) -> Found:
    """Train three steps, save, open with sr and with spandrel, and compare the outputs."""
    torch.manual_seed(0)
    net, file, x = make(name, scale), folder / f"{name}_x{scale}.safetensors", torch.rand(1, 3, SIDE, SIDE)
    trained = train(net, scale)
    if trained:
        return Found(trained, "-", "-", "-")
    with torch.no_grad():
        wanted = net.eval()(x).clamp(0, 1)
    kwargs = {key: value for key, value in part(name).items() if key != "type"}
    save_safetensors(file, net.state_dict(), architecture(f"spandrel.{name}", kwargs | {"scale": scale}))
    return Found("", _upscales(file, x, wanted), _spandrel(file, x, wanted), _onnx(file) if onnx else "not tried")


def train(net: nn.Module, scale: int) -> str:
    """Three steps of Adam. Returns what is wrong: parameters that get no gradient, a loss that does not fall."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    x = torch.rand(2, 3, SIDE, SIDE)
    target = nn.functional.interpolate(x, scale_factor=scale, mode="bicubic")
    for _ in range(3):
        loss = (net.train()(x) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        still = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
        if still:
            return f"no gradient for {still[0]} and {len(still) - 1} more"
        if not loss.isfinite():
            return "the loss is not finite"
    return ""


@torch.no_grad()
def _upscales(file: Path, x: Tensor, wanted: Tensor) -> str:
    return _difference(open_model(file).net(x).clamp(0, 1), wanted)


@torch.no_grad()
def _spandrel(file: Path, x: Tensor, wanted: Tensor) -> str:
    try:
        found = spandrel.ModelLoader().load_from_file(file)
    except Exception as error:
        return first_line(error)
    return _difference(found(x), wanted)


def _difference(made: Tensor, wanted: Tensor) -> str:
    if made.shape != wanted.shape:
        return f"output of {made.shape[-1]} pixels"
    largest = float((made - wanted).abs().max())
    return f"differs by {largest:.2g}" if largest > CLOSE else ""


def _onnx(file: Path) -> str:
    """Why there is no file, in the words of sr or the name of the operator that torch lacks; empty: there is one."""
    try:
        export(str(file), file.with_suffix(".onnx"))
    except UserError as error:
        if "differs from PyTorch" in str(error):
            return "no (fixed sizes only)"
        reason = re.search(r"has no ONNX form \((.*)\); export", str(error))
        said = reason[1] if reason else first_line(error)
        operator = re.search(r"operator '?([\w:]+(?: \w+)?)", said)
        return f"no ({operator[1] if operator else said})"
    return ""


def row(name: str, folder: Path, *, onnx: bool = True) -> str:
    known = scales(name)
    tried = [scale for scale in (2, 4) if scale in known] or known[:1]
    results = [examine(name, scale, folder, onnx=onnx) for scale in tried]
    cells = [next((text for text in column if text), "yes") for column in zip(*results, strict=True)]
    return f"| `spandrel.{name}` | {', '.join(map(str, known))} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="examine the architectures of spandrel")
    parser.add_argument("names", nargs="*", help="print the rows of these (default: write the page of all)")
    parser.add_argument("--no-onnx", dest="onnx", action="store_false", help="do not export to ONNX")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or ARCHITECTURES:
            rows.append(row(name, Path(folder), onnx=args.onnx))
            print(rows[-1], flush=True)
    if not args.names:
        FILE.write_text(HEAD + "\n".join([*rows, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
