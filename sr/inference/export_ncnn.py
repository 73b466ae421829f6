"""Convert a network to ncnn with pnnx, and run the result. Both are programs of Tencent under BSD-3-Clause."""

import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr.core.errors import UserError, first_line

SECONDS = 600  # more than a large network takes; a limit because pnnx is another process
BLOBS = {"in0": "data", "out0": "output"}  # the names that realesrgan-ncnn-vulkan and upscayl ask for


def convert(
    net: nn.Module, channels: int, sizes: list[tuple[int, int]], param: Path, weights: Path, *, half: bool
) -> None:
    """Write the graph as `param` (text) and its weights, in float16 if `half`. Two sizes leave the sides open.

    Raises:
        UserError: the reason for which ncnn cannot hold the network, without its name.
    """
    import pnnx

    shapes = [f"[1,{channels},{height},{width}]f32" for height, width in sizes]
    options = [f"inputshape={shapes[0]}", f"inputshape2={shapes[1]}", f"fp16={int(half)}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.pt")
        _trace(net, torch.zeros(1, channels, *sizes[0]), file)
        command = [pnnx.EXEC_PATH, file.name, *options]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(first_line(error)) from None
        made = file.with_suffix(".ncnn.param"), file.with_suffix(".ncnn.bin")
        if done.returncode or not all(path.exists() for path in made):
            raise UserError(f"pnnx ended with exit code {done.returncode}")
        graph = made[0].read_text()
        unknown = sorted(set(re.findall(r"^(\w+\.[\w.]+)", graph, re.MULTILINE)))  # ncnn's own names have no dot
        if unknown:
            raise UserError(f"ncnn lacks {', '.join(unknown)}")
        param.write_text(re.sub(r"\b(in0|out0)\b", lambda found: BLOBS[found[1]], graph))
        weights.write_bytes(made[1].read_bytes())


def _trace(net: nn.Module, image: Tensor, file: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about tracing; the result is compared with PyTorch
        try:
            torch.jit.trace(net, image, check_trace=False).save(str(file))
        except Exception as error:  # a layer that TorchScript cannot hold raises any of many types
            raise UserError(first_line(error)) from None


def run(param: Path, weights: Path, images: Tensor) -> Tensor:
    """Return the output for [B, C, h, w] on the CPU in float32. ncnn takes one image at a time."""
    import ncnn

    with ncnn.Net() as net:
        net.opt.use_vulkan_compute = False
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise RuntimeError("ncnn does not load the file")
        return torch.stack([_run_one(net, image) for image in images])


def _run_one(net: Any, image: Tensor) -> Tensor:
    import ncnn
    import numpy as np

    with net.create_extractor() as extractor:
        extractor.input(BLOBS["in0"], ncnn.Mat(image.numpy()).clone())
        code, output = extractor.extract(BLOBS["out0"])
        if code:
            raise RuntimeError(f"ncnn ended with code {code}")
        return torch.from_numpy(np.array(output))
