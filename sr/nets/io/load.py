"""Open trained generators from files of sr and of other trainers."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sr.config.registry import Factory, Table, find, model_of
from sr.core.errors import UserError, first_line
from sr.nets import GENERATORS
from sr.nets.io.experts import route_each_image
from sr.nets.io.size_limit import as_large_as
from sr.nets.io.spandrel_call import spandrel_call
from sr.nets.io.state_dicts import Player, State, load_weights, to_new_esrgan
from sr.nets.resnet import ResNet
from sr.nets.rrdbnet import RRDBNet
from sr.nets.unet import UNet

Direction = Literal["a_to_b", "b_to_a"]


@dataclass(frozen=True)
class Model:
    """A generator ready to run.

    net: float [B, channels, h, w] in 0..1 -> [B, out_channels, h * scale, w * scale], any h and w, in eval mode.
    multiple: sides that are multiples of this need no padding inside the net. name: for messages.
    colours: what the channels are: "rgb" (also gray); "lab": L in, the a and b of CIE Lab out; "edges": edge maps in.
    """

    net: nn.Module
    scale: int
    multiple: int
    name: str
    channels: int = 3
    out_channels: int = 3
    colours: str = "rgb"


class NotNamed(UserError):
    """The file needs code that `plugins` does not name."""


def architecture(kind: str, kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata from which `open_model` rebuilds a generator: its type and the constructor's arguments."""
    return {"architecture": json.dumps({"type": kind, "kwargs": dict(kwargs)})}


def open_model(
    path: str | Path,
    *,
    expect_scale: int | None = None,
    direction: Direction | None = None,
    plugins: Sequence[str] = (),
) -> Model:
    """Open the generator in a file.

    Files of sr are recognized by their metadata. A published RRDBNet, or a `latest_net_G.pth` of pix2pix or CycleGAN,
    is recognized by its keys and shapes. Everything else is opened by spandrel.
    direction: which generator of a CycleGAN file of sr, which holds both (default a_to_b); ignored for other files.
    plugins: Python files, or dotted names of modules or classes, that may be imported to build the generator.
    Raises UserError if the file is not a model, or if its scale is not `expect_scale`.
    """
    state, metadata = load_weights(path, "generator")
    chosen = _of_direction(state, direction or "a_to_b")
    back = chosen is not state and direction == "b_to_a"
    if metadata.get("architecture", "").startswith("{"):  # other programs write words there
        model = _from_metadata(path, chosen, metadata, plugins, back=back)
    else:
        model = (
            _published_rrdb(path, chosen, expect_scale) or _published_translator(chosen) or _from_spandrel(path, chosen)
        )
    if expect_scale not in (None, model.scale):
        raise UserError(f"{path} upscales by {model.scale}, not {expect_scale}; give its scale or another model")
    model.net.eval()
    return model


def _of_direction(state: State, direction: Direction) -> State:
    """Return the generator of one direction from a state dict that holds both; any other state dict unchanged."""
    prefix = f"{direction}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)} or state


def _from_metadata(
    path: str | Path, state: State, metadata: Mapping[str, str], plugins: Sequence[str], *, back: bool
) -> Model:
    """Build the generator that the metadata describe.

    back: the metadata describe the generator of the other direction, whose input is the output of this one.
    """
    try:
        part = json.loads(metadata["architecture"])
        kind, kwargs = str(part["type"]), part["kwargs"]
        if "." in kind and kind.partition(".")[0] not in ("basicsr", "spandrel"):
            return _plugin(path, state, kind, kwargs, plugins)
        factory = find(Table(GENERATORS), kind, plugins=False)  # of the table only: a file never names code to import
        channels = kwargs.get("num_in_ch", 3), kwargs.get("num_out_ch", 3)
        if back and channels[0] != channels[1]:
            channels = channels[::-1]
            kwargs = {**kwargs, "num_in_ch": channels[0], "num_out_ch": channels[1]}
        net = None if kind == "spandrel" else _build(factory, kwargs, state)
    except NotNamed:
        raise
    except (UserError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: its weights and the architecture in its metadata do not go together ({first_line(error)}); "
            "copy it again, or open it with the version of sr that wrote it"
        ) from None
    if net is None:  # the file that it was built from may no longer exist; its weights are the same
        return _from_spandrel(path, state)
    return Model(net, net.scale, net.multiple, f"{kind} x{net.scale}", *channels, metadata.get("colours", "rgb"))


def _plugin(path: str | Path, state: State, kind: str, kwargs: Mapping[str, Any], plugins: Sequence[str]) -> Model:
    """Open a generator that was trained as a class outside sr.

    Its code is imported only if `plugins` names it; otherwise spandrel opens the file if it recognizes the weights.
    Raises UserError if neither applies, ValueError if the weights do not fit.
    """
    factory = _named_by(plugins, kind)
    if factory is not None:
        known = model_of(factory).model_fields
        net = _build(factory, {key: value for key, value in kwargs.items() if key in known}, state)
        channels = kwargs.get("num_in_ch", 3), kwargs.get("num_out_ch", 3)
        return Model(net, kwargs["scale"], getattr(net, "multiple", 1), f"{kind} x{kwargs['scale']}", *channels)
    try:
        found = _recognized(path, state)
    except UserError as error:
        raise NotNamed(
            f"{error}; its network, {kind}, is not part of sr: give the code that defines it with --plugins FILE"
        ) from None
    if kwargs["scale"] != found.scale:
        raise ValueError(f"scale {kwargs['scale']} in the metadata, {found.scale} in the weights")
    return _described(path, found)


def _named_by(plugins: Sequence[str], kind: str) -> Factory | None:
    """Return the class `kind` if one of `plugins` names it: a Python file, or a dotted module, package or class."""
    for given in plugins:
        if given.endswith(".py"):
            file = Path(given)
            if not file.is_file():
                raise NotNamed(f"--plugins {given}: no such file; give a Python file or a dotted name")
            sys.path.insert(0, str(file.resolve().parent))
            if file.stem in kind.split(".")[:-1]:
                return _network(f"{file.stem}.{kind.rpartition('.')[2]}")
        elif f"{kind}.".startswith(f"{given}."):
            return _network(kind)
    return None


def _network(kind: str) -> Factory:
    """Return the class with this dotted name. A file may name any function of a plugin; only networks are called."""
    factory = find(Table({}), kind)
    if not (isinstance(factory, type) and issubclass(factory, nn.Module)):
        raise NotNamed(f"--plugins: {kind}, which the file names, is not a network; give the code of the network")
    return factory


def _published_rrdb(path: str | Path, state: State, expect_scale: int | None) -> Model | None:
    """Open a file of ESRGAN or Real-ESRGAN; return None for others.

    Keys and shapes imply everything except whether a single upsampling is x2 or x3.
    """
    state = to_new_esrgan(state)
    try:
        kwargs = rrdb_kwargs(state, expect_scale)
        net = _build(RRDBNet, kwargs, state)
    except (ValueError, KeyError):
        return None
    name = f"RRDBNet {kwargs['num_feat']}/{kwargs['num_block']} x{net.scale}"
    return Model(net, net.scale, net.multiple, name, kwargs["num_in_ch"], kwargs["num_out_ch"])


def _published_translator(state: State) -> Model | None:
    """Open a generator of pytorch-CycleGAN-and-pix2pix; return None for others."""
    for kind in (UNet, ResNet):
        try:
            kwargs = kind.parameters_of(state)
            net = _build(kind, kwargs, state)
        except (ValueError, KeyError):
            continue
        name = f"{kind.__name__} {kwargs['num_feat']}/{kwargs.get('num_downs') or kwargs['num_block']}"
        channels = kwargs["num_in_ch"], kwargs["num_out_ch"]
        colours = "lab" if channels == (1, 2) else "rgb"  # its colorization model: lightness in, a and b out
        return Model(net, net.scale, net.multiple, name, *channels, colours)
    return None


def rrdb_kwargs(state: State, expect_scale: int | None) -> dict[str, Any]:
    """Return the arguments of RRDBNet that the shapes of its weights, under the new names, imply."""
    blocks = [int(match[1]) for key in state if (match := re.match(r"body\.(\d+)\.rdb1\.conv1\.weight", key))]
    num_up = sum(bool(re.fullmatch(r"conv_up\d\.weight", key)) for key in state)
    num_feat, num_in_ch = state["conv_first.weight"].shape[:2]
    num_out_ch = state["conv_last.weight"].shape[0]
    fold = next((fold for fold in (4, 2) if num_up == 2 and num_in_ch == num_out_ch * fold**2), 1)
    return {
        "scale": 3 if num_up == 1 and expect_scale == 3 else 2**num_up // fold,
        "num_in_ch": num_in_ch // fold**2,
        "num_out_ch": num_out_ch,
        "num_feat": num_feat,
        "num_block": max(blocks) + 1,
        "num_grow_ch": state["body.0.rdb1.conv1.weight"].shape[0],
        "unshuffle": fold > 1,
    }


def _build(kind: Factory, kwargs: Any, state: State) -> Any:
    """Build the net and load its weights. Raises ValueError, before allocating memory, if they do not fit."""
    checked = model_of(kind).model_validate(kwargs).model_dump(exclude_unset=True)
    with torch.device("meta"), as_large_as(state):
        misfits = _misfits(kind(**checked), state)
    if misfits:
        raise ValueError(_list(misfits))
    net = kind(**checked)
    net.load_state_dict({key: state[key] for key in net.state_dict()})
    return net


class _Spandrel(nn.Module):
    """A spandrel model as a module, which pads its input to the required sizes and clamps its output to 0..1."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model = route_each_image(descriptor.model)
        self._call = spandrel_call(descriptor)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def _from_spandrel(path: str | Path, state: State) -> Model:
    return _described(path, _recognized(path, state))


def _recognized(path: str | Path, state: State) -> Any:
    """Return spandrel's descriptor of the model."""
    import spandrel

    try:
        with as_large_as(state):
            return spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        what = "a discriminator" if _DISCRIMINATOR & state.keys() else "no generator that sr or spandrel knows"
        raise UserError(f"{path} is {what}; give the generator of a super-resolution model (net_g_*)") from None
    except Exception as error:  # spandrel guesses hyper-parameters from shapes; odd files break it in many ways
        raise UserError(
            f"{path} is no generator that sr or spandrel knows ({first_line(error)}); give a super-resolution model"
        ) from None


_DISCRIMINATOR = {"conv0_0.weight", "conv9.weight", "conv9.bias", "conv1.weight_orig"}
"""Names that the published discriminators have: of BasicSR's VGGStyleDiscriminator and UNetDiscriminatorSN."""


def _described(path: str | Path, found: Any) -> Model:
    import spandrel

    if not isinstance(found, spandrel.ImageModelDescriptor) or found.input_channels != found.output_channels:
        raise UserError(f"{path} holds {found.architecture.name}, which is not image to image; give a generator")
    name = f"{found.architecture.name} x{found.scale}"
    channels = found.input_channels, found.output_channels
    return Model(_Spandrel(found), found.scale, found.size_requirements.multiple_of, name, *channels)


def load_into(net: nn.Module, path: str | Path, *, strict: bool = True, player: Player = "generator") -> list[str]:
    """Load weights in any of the published layouts into `net`, to train it further.

    strict: raise UserError unless all parameters fit. Otherwise load what fits by name and shape, and return one
    phrase for each parameter that does not. Raises UserError if nothing fits.
    """
    state = to_new_esrgan(load_weights(path, player)[0])
    misfits, own = _misfits(net, state), net.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and key not in misfits}
    if misfits and (strict or not fitting):
        raise UserError(f"{path} does not fit {type(net).__name__}: {_list(misfits)}; give the file's own options")
    net.load_state_dict(fitting, strict=False)
    return list(misfits.values())


def _misfits(net: nn.Module, state: State) -> dict[str, str]:
    """Return what keeps a state dict from loading: key -> phrase."""
    own = net.state_dict()
    found = {key: f"{key!r} is missing" for key in own.keys() - state.keys()}
    found |= {key: f"{key!r} is unknown" for key in state.keys() - own.keys() if not _unused_statistic(key, state)}
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            found[key] = f"{key!r} is {list(state[key].shape)}, not {list(own[key].shape)}"
    return dict(sorted(found.items()))


def _unused_statistic(key: str, state: State) -> bool:
    """Return whether a key is a running statistic of an instance norm, recognized by having no weight.

    Older versions of torch saved them, and the published nets never used them.
    """
    norm, _, name = key.rpartition(".")
    return name in ("running_mean", "running_var", "num_batches_tracked") and f"{norm}.weight" not in state


def _list(misfits: Mapping[str, str], most: int = 4) -> str:
    more = f" and {len(misfits) - most} more" if len(misfits) > most else ""
    return ", ".join(list(misfits.values())[:most]) + more
