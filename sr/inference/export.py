"""Export a trained generator for other programs: ONNX, ncnn, the published .pth layouts, safetensors."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sr.core.atomic import replacing
from sr.core.errors import UserError, first_line
from sr.inference import export_ncnn
from sr.inference.zoo import locate
from sr.nets.io.experts import chooses_layers
from sr.nets.io.load import Direction, Model, open_model, rrdb_kwargs
from sr.nets.io.state_dicts import State, load_weights, save_pth, save_safetensors, to_new_esrgan, to_old_esrgan
from sr.nets.rrdbnet import RRDBNet
from sr.nets.translation import Dropout, Translator

TOLERANCE = 1e-4  # largest difference from PyTorch, of values in 0..1, with which a file of ONNX or ncnn is kept
HALF_TOLERANCE = 4 / 255  # the same in half precision
OPSET = 17  # of 2022: every runtime in use has it, and no network here needs a newer one
Layout = Literal["published", "old-esrgan"]
Run = Callable[[Tensor], Tensor]  # of an exported file: [B, C, h, w] -> its output


class _Source(NamedTuple):
    path: str
    model: Model
    layout: Layout
    opset: int
    half: bool

    @property
    def tolerance(self) -> float:
        return HALF_TOLERANCE if self.half else TOLERANCE


def export(
    path: str,
    target: Path,
    *,
    scale: int | None = None,
    direction: Direction | None = None,
    layout: Layout = "published",
    opset: int = OPSET,
    half: bool = False,
) -> str:
    """Write the generator in `path` in the format of the suffix of `target`. Returns a line that describes the file.

    .onnx: float32 [batch, channels, height, width] with dynamic sizes, simplified by onnxslim; onnxruntime agrees with
    PyTorch within TOLERANCE at two sizes. .param: ncnn, with the weights in a .bin of the same name; blobs data and
    output, sides of any length, compared in the same way. .pth: {"params_ema": weights}, and for translation the
    weights alone, as published. .safetensors: weights and metadata. Each write is atomic.

    Args:
        scale: of a published x3 model, whose file does not store it.
        direction: which of the two generators of a CycleGAN (a_to_b).
        layout: `old-esrgan` for the names of the first ESRGAN release.
        opset: of ONNX.
        half: weights and computation of ONNX, or weights of ncnn, in float16, within HALF_TOLERANCE; input and output
            stay float32.

    Raises:
        UserError: the file cannot be opened, or the network cannot be written in this format.
    """
    weights: dict[str, Callable[[_Source, Path], str]] = {".pth": _pth, ".safetensors": _safetensors}
    known = {".onnx": _onnx, ".param": _ncnn} | weights
    write = known.get(target.suffix.lower())
    if write is None:
        raise UserError(f"{target}: cannot write '{target.suffix}'; end the name in one of {', '.join(known)}")
    if target.is_dir():
        raise UserError(f"{target} is a folder; give the name of a file")
    if target.exists() and Path(path).exists() and target.samefile(path):
        raise UserError(f"{target} is the model itself; give another name")
    file = str(locate(path))
    source = _Source(file, open_model(file, expect_scale=scale, direction=direction), layout, opset, half)
    if half and write in weights.values():
        raise UserError(f"{target}: half precision is for .onnx and .param; leave --half out")
    if layout == "old-esrgan" and (write not in weights.values() or not isinstance(source.model.net, RRDBNet)):
        raise UserError(f"{target}: old-esrgan names the weights of an RRDBNet in .pth and .safetensors; leave it out")
    return f"{target}: {source.model.name}, {write(source, target)}"


# ---- weights ---------------------------------------------------------------------------------------------------------


def _state(source: _Source) -> dict[str, Any]:
    """The weights under the names that other programs expect."""
    net = source.model.net
    if not hasattr(net, "scale"):  # run by spandrel, which opens it by the names in its file
        return load_weights(source.path, "generator")[0]
    return to_old_esrgan(net.state_dict()) if source.layout == "old-esrgan" else net.state_dict()


def _pth(source: _Source, target: Path) -> str:
    if isinstance(source.model.net, Translator):
        state = {key: value.contiguous() for key, value in _state(source).items()}
        with replacing(target, sync=True) as temporary:
            torch.save(state, temporary)
        return "its weights as pytorch-CycleGAN-and-pix2pix keeps them in latest_net_G.pth"
    state = _state(source)
    if isinstance(source.model.net, RRDBNet):
        _check_shapes_suffice(source.model, to_new_esrgan(state), target)
    save_pth(target, state)
    return "its weights under params_ema"


def _check_shapes_suffice(model: Model, state: State, target: Path) -> None:
    """Raise UserError where other programs would read the file as a network of another scale or other channels.

    A .pth has no metadata, and at x1 and x2 the input is folded into channels.
    """
    implied = rrdb_kwargs(state, model.scale)
    found = implied["scale"], implied["num_in_ch"], implied["num_out_ch"]
    if found != (model.scale, model.channels, model.out_channels):
        kind = f"x{model.scale} from {model.channels} to {model.out_channels} channels"
        raise UserError(f"{target}: the shapes of the weights do not imply {kind}; export .safetensors")


def _safetensors(source: _Source, target: Path) -> str:
    metadata = load_weights(source.path)[1]
    if metadata.get("architecture", "").startswith("{"):  # of a file with two generators it describes one
        part = json.loads(metadata["architecture"])
        channels = {"num_in_ch": source.model.channels, "num_out_ch": source.model.out_channels}
        part["kwargs"] |= {key: count for key, count in channels.items() if part["kwargs"].get(key, 3) != count}
        metadata["architecture"] = json.dumps(part)
    save_safetensors(target, _state(source), metadata)
    return "its weights and metadata" if metadata else "its weights"


# ---- graphs ----------------------------------------------------------------------------------------------------------


def _onnx(source: _Source, target: Path) -> str:
    _require(target, "export", "onnx", "onnxruntime", "onnxslim")
    model = source.model
    noise = _prepare(model, "ONNX")
    with replacing(target, sync=True) as temporary:
        _trace(model, temporary, source.opset)
        _simplify(temporary)
        run = partial(_run_onnx, temporary)
        worst = _check(source._replace(half=False), target, run, "onnxruntime", _sizes(model.multiple))
        if source.half:  # checked twice: its tolerance alone accepts graphs that are slightly wrong at other sizes
            _halve(temporary)
            worst = _check(source, target, run, "onnxruntime", _sizes(model.multiple))
        multiple = 1 if _takes_any_size(model, run, source.tolerance) else model.multiple
        _describe(model, temporary, multiple)
    sides = f"sides a multiple of {multiple}" if multiple > 1 else "sides of any length"
    precision = "float16, " if source.half else ""
    return f"opset {source.opset}, {precision}{sides}, at most {worst:.1e} from PyTorch in onnxruntime{noise}"


def _ncnn(source: _Source, target: Path) -> str:
    _require(target, "ncnn", "pnnx", "ncnn")
    model = source.model
    noise = _prepare(model, "ncnn")
    sizes = _sizes(model.multiple)
    with replacing(target, sync=True) as param, replacing(target.with_suffix(".bin"), sync=True) as weights:
        try:
            export_ncnn.convert(model.net, model.channels, sizes, param, weights, half=source.half)
        except UserError as error:
            raise UserError(f"{model.name} has no ncnn form ({error}); export .onnx or .safetensors") from None
        run = partial(export_ncnn.run, param, weights)
        worst = _check(source, target, run, "ncnn", [*sizes, *_odd_sizes(model.multiple)])
    precision = "float16, " if source.half else ""
    files = f"with {target.with_suffix('.bin').name}, blobs data and output"
    return f"{files}, {precision}sides of any length, at most {worst:.1e} from PyTorch in ncnn{noise}"


def _require(target: Path, extra: str, *names: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(f"{target}: {' and '.join(missing)} not installed here; run: pip install 'sr-train[{extra}]'")


def _prepare(model: Model, form: str) -> str:
    """Make the network one static graph. Returns what to add to the line about the file."""
    if chooses_layers(model.net):
        raise UserError(f"{model.name} has no {form} form (the image decides which layers run); export .safetensors")
    return "; its dropout is removed" if _without_dropout(model.net) else ""


def _check(source: _Source, target: Path, run: Run, program: str, sizes: list[tuple[int, int]]) -> float:
    """Return the largest difference from PyTorch, if it is within the tolerance."""
    worst = max(_difference(source.model, run, size) for size in sizes)
    if not worst <= source.tolerance:
        form = "ONNX" if program == "onnxruntime" else program
        fix = "leave --half out" if source.half else f"it has no {form} form with open sizes, export .safetensors"
        raise UserError(
            f"{target}: {program} differs from PyTorch by {worst:.1e} ({source.tolerance:.1e} is allowed), so "
            f"nothing was written of {source.model.name}; {fix}"
        )
    return worst


def _without_dropout(net: nn.Module) -> bool:
    """Remove the dropout of pix2pix, which a static graph cannot hold. Returns whether there was any."""
    found = [module for module in net.modules() if isinstance(module, Dropout) and module.as_paper and module.p > 0]
    for module in found:
        module.as_paper = False
    return bool(found)


def _trace(model: Model, path: Path, opset: int) -> None:
    """Write the graph with the TorchScript exporter, which torch 2.6 and later have and needs no other package."""
    height, width = _sizes(model.multiple)[0]
    axes = {0: "batch", 2: "height", 3: "width"}
    open_axes = {"image": axes, "output": {axis: f"output_{name}" if axis else name for axis, name in axes.items()}}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["output"], "dynamic_axes": open_axes}
    with warnings.catch_warnings(), torch.no_grad(), _no_graph_dump():
        warnings.simplefilter("ignore")  # about tracing; the result is compared with PyTorch below
        try:
            image = torch.zeros(1, model.channels, height, width)
            torch.onnx.export(model.net, (image,), str(path), dynamo=False, opset_version=opset, **names)
        except Exception as error:  # a layer without an ONNX form raises any of many types
            reason = first_line(error).partition(" Please feel free")[0].rstrip(".")
            raise UserError(f"{model.name} has no ONNX form ({reason}); export .safetensors, or try --opset") from None


@contextmanager
def _no_graph_dump() -> Iterator[None]:
    """Discard what is written to the standard output of the process: the graph, in hundreds of lines.

    torch prints it where a layer has no ONNX form, also with verbose=False.
    """
    sys.stdout.flush()
    before, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)


def _simplify(path: Path) -> None:
    """Fold constants and remove what has no effect."""
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(str(path)), str(path))


def _halve(path: Path) -> None:
    """Convert to float16 between input and output."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(path))


def _sizes(multiple: int) -> list[tuple[int, int]]:
    """(height, width) to compare at: two rectangles that are not transposes of each other."""
    side = -(-32 // multiple) * multiple
    return [(side, side + multiple), (2 * side, side + 2 * multiple)]


def _odd_sizes(multiple: int) -> list[tuple[int, int]]:
    """Sizes that are no multiple: some networks pad by a traced amount, others branch on the size."""
    side = _sizes(multiple)[0][0]
    return [] if multiple == 1 else [(side + 1, side + multiple - 1), (side, side + 1)]


def _difference(model: Model, run: Run, size: tuple[int, int]) -> float:
    """max |run - PyTorch| over two images of noise, on the CPU in float32.

    Infinite where the file does not run or the shapes differ.
    """
    images = torch.rand(2, model.channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.net(images)
    try:
        made = run(images)
    except Exception:  # onnxruntime has an exception class for every kind of failure
        return float("inf")
    return (made - expected).abs().max().item() if made.shape == expected.shape else float("inf")


def _run_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    settings, run = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    settings.log_severity_level = run.log_severity_level = 4  # a size that does not fit is an expected result
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": images.numpy()}, run)[0])


def _takes_any_size(model: Model, run: Run, tolerance: float) -> bool:
    return all(_difference(model, run, size) <= tolerance for size in _odd_sizes(model.multiple))


def _describe(model: Model, path: Path, multiple: int) -> None:
    """Add the metadata that a program needs to run the file."""
    import onnx

    graph = onnx.load(str(path))
    facts = {"model": model.name, "scale": model.scale, "multiple": multiple, "range": "0..1", "colours": model.colours}
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, str(path))
