"""Pretrained classification networks as frozen feature extractors, truncated after the last layer that is used."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision import models

from sr.core.errors import UserError, first_line, nearest
from sr.nets.io.state_dicts import State, load_weights

Layers = Annotated[dict[str, float], Field(min_length=1)]


class Backbone(nn.Module):
    """[B, 3, h, w] in 0..1 -> {layer: features [B, channels, h', w']}; `layers` holds each one's weight.

    network: from normalised images to the features of the layers, in their order. It is frozen and in eval mode, and
    runs in the precision of the surrounding autocast.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, layers: Mapping[str, float], mean: Any, std: Any) -> None:
        super().__init__()
        self.network, self.layers = network, dict(layers)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.network((images.float() - self.mean) / self.std)
        return dict(zip(self.layers, features, strict=True))


def keep_in_half(loss: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of the backbones' convolutions and linear layers in `dtype`, that of the autocast around them.

    Autocast rounds frozen weights to the same values, but at every call.
    """
    backbones = [module for module in loss.modules() if isinstance(module, Backbone)]
    for module in (inner for backbone in backbones for inner in backbone.network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)


def open_backbone(
    name: str, layers: Mapping[str, float] | None = None, *, weights: str = "pretrained", checkpointing: bool = False
) -> Backbone:
    """Load a row of BACKBONES, `torchvision/NAME`, or `timm/NAME` for any timm model with feature extraction.

    layers: names and weights; None for the backbone's default. weights: `pretrained` (or its source, `torchvision` or
    `timm`), a name of torchvision's weights such as `IMAGENET1K_V2`, a file with that state dict, or `random` (seeded,
    with a warning).
    checkpointing: recompute the features in the backward pass instead of storing those between layers.
    Raises UserError for unknown layers and for weights that cannot be loaded.
    """
    if weights == "random":
        warnings.warn(
            f"{name} has random weights, so its loss does not measure perceptual similarity; set weights: pretrained",
            stacklevel=3,
        )
    of_timm = name.startswith("timm/")
    if weights == ("timm" if of_timm else "torchvision"):
        weights = "pretrained"
    if of_timm:
        return _open_timm(name.removeprefix("timm/"), layers, weights, checkpointing)
    with torch.device("meta"):  # allocates no memory for the classifiers, which are not used
        known = BACKBONES.get(name) or _torchvision(name.removeprefix("torchvision/"))
        net = known.build()
    if weights in type(known.published).__members__:
        known, weights = replace(known, published=type(known.published)[weights]), "pretrained"
    names = known.names(net)
    layers = _in_order(name, layers or known.layers or _last_of_each_size(net, names), list(names))
    segments = _segments(names, set(layers))
    state = _weights(name, known.published, weights, _part(net.state_dict(), segments))
    net.load_state_dict(state, strict=False, assign=True)
    parts = [nn.Sequential(*(net.get_submodule(path) for path in segment)) for segment in segments]
    for part in parts:
        part[0].apply(_spare_input)
    expected = known.published.transforms()
    return Backbone(_Chain(parts, checkpointing), layers, expected.mean, expected.std)


def _spare_input(module: nn.Module) -> None:
    """Keep the activation after a layer that is used from overwriting it. All others work in place: faster."""
    if hasattr(module, "inplace"):
        module.inplace = False  # type: ignore[assignment]


class _Chain(nn.Module):
    """Run segments one after the other and return the output of each."""

    def __init__(self, segments: list[nn.Sequential], checkpointing: bool) -> None:
        super().__init__()
        self.segments, self.checkpointing = nn.ModuleList(segments), checkpointing

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for segment in self.segments:
            if self.checkpointing and x.requires_grad:
                x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = segment(x)
            found.append(x)
        return found


# ---- torchvision ---------------------------------------------------------------------------------------------------

Names = dict[str, list[str]]
"""The layers of a network in execution order: name -> paths of its modules."""


def _vgg_names(net: nn.Module) -> Names:
    """conv1_1, relu1_1, ... pool1, conv2_1 and so on, numbered as by Simonyan and Zisserman."""
    names, block, number = {}, 1, 0
    for place, module in net.get_submodule("features").named_children():
        if isinstance(module, nn.MaxPool2d):
            name, block, number = f"pool{block}", block + 1, 0
        elif isinstance(module, nn.Conv2d):
            number += 1
            name = f"conv{block}_{number}"
        else:
            name = f"relu{block}_{number}"
        names[name] = [f"features.{place}"]
    return names


def _resnet_names(net: nn.Module) -> Names:
    stem = {"stem": ["conv1", "bn1", "relu"], "maxpool": ["maxpool"]}
    return stem | {f"layer{n}": [f"layer{n}"] for n in range(1, 5)}


def _numbered_names(net: nn.Module) -> Names:
    return {f"features.{place}": [f"features.{place}"] for place, _ in net.get_submodule("features").named_children()}


@dataclass(frozen=True)
class Known:
    """A torchvision network, the names of its layers, and the layers that a loss uses by default.

    layers: None for the last layer of each resolution.
    """

    build: Callable[[], nn.Module]
    published: models.WeightsEnum
    names: Callable[[nn.Module], Names]
    layers: Mapping[str, float] | None


def _even(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


REAL_ESRGAN = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
_VGG16 = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_3": 1.0, "conv4_3": 1.0, "conv5_3": 1.0}
_RESNET = _even("layer1", "layer2", "layer3", "layer4")
_MOBILENET = _even("features.1", "features.3", "features.6", "features.13", "features.17")
_CONVNEXT = _even("features.1", "features.3", "features.5", "features.7")
_ALEXNET = _even(*(f"features.{n}" for n in (1, 4, 7, 9, 11)))
_SQUEEZENET = _even(*(f"features.{n}" for n in (1, 4, 7, 9, 10, 11, 12)))

BACKBONES: dict[str, Known] = {
    "vgg16": Known(models.vgg16, models.VGG16_Weights.IMAGENET1K_V1, _vgg_names, _VGG16),
    "vgg19": Known(models.vgg19, models.VGG19_Weights.IMAGENET1K_V1, _vgg_names, REAL_ESRGAN),
    "resnet50": Known(models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1, _resnet_names, _RESNET),
    "mobilenet_v2": Known(models.mobilenet_v2, models.MobileNet_V2_Weights.IMAGENET1K_V1, _numbered_names, _MOBILENET),
    "convnext_tiny": Known(
        models.convnext_tiny, models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1, _numbered_names, _CONVNEXT
    ),
    "alexnet": Known(models.alexnet, models.AlexNet_Weights.IMAGENET1K_V1, _numbered_names, _ALEXNET),
    "squeezenet1_1": Known(
        models.squeezenet1_1, models.SqueezeNet1_1_Weights.IMAGENET1K_V1, _numbered_names, _SQUEEZENET
    ),
}
IN_SEQUENCE = (
    "alexnet",
    "convnext",
    "densenet",
    "efficientnet",
    "mobilenet",
    "resne",
    "squeezenet",
    "vgg",
    "wide_resnet",
)
BackboneName = Annotated[str, Field(pattern=rf"^({'|'.join(BACKBONES)}|torchvision/.+|timm/.+)$")]


def _torchvision(name: str) -> Known:
    """A classification network of torchvision whose layers run one after the other."""
    usable = [each for each in models.list_models(models) if each.startswith(IN_SEQUENCE)]
    if name not in usable:
        raise UserError(
            f"torchvision/{name} is not one of {', '.join(usable)}.{nearest(name, usable)} Or choose timm/NAME"
        )
    names = _resnet_names if "resne" in name else _numbered_names
    return Known(lambda: models.get_model(name), models.get_model_weights(name).DEFAULT, names, None)


@torch.no_grad()
def _last_of_each_size(net: nn.Module, names: Names) -> dict[str, float]:
    """The last layer of each resolution below that of the input, with weight 1. net: on the meta device."""
    x, last = torch.empty(1, 3, 256, 256, device="meta"), {}
    for name, paths in names.items():
        for path in paths:
            x = net.get_submodule(path)(x)
        last[x.shape[-1]] = name
    return _even(*(name for side, name in last.items() if side < 256))


def _in_order(backbone: str, layers: Mapping[str, float], names: list[str]) -> dict[str, float]:
    for layer in layers:
        if layer not in names:
            raise UserError(
                f"{backbone} has no layer '{layer}'; name any of {', '.join(names)}.{nearest(layer, names)}"
            )
    return {name: layers[name] for name in names if name in layers}


def _segments(names: Names, wanted: set[str]) -> list[list[str]]:
    """The module paths of each segment, which ends at a wanted layer. Modules after the last one are left out."""
    segments, current = [], []
    for name, paths in names.items():
        current += paths
        if name in wanted:
            segments.append(current)
            current = []
    return segments


def _part(state: Mapping[str, Tensor], segments: list[list[str]]) -> State:
    paths = tuple(f"{path}." for segment in segments for path in segment)
    return {key: value for key, value in state.items() if key.startswith(paths)}


def _weights(name: str, published: models.WeightsEnum, source: str, wanted: State) -> State:
    """A value for each of the `wanted` parameters and buffers, in float32."""
    if source == "random":
        return _random(wanted)
    if source != "pretrained" and not Path(source).suffix and not Path(source).exists():
        known = ", ".join(one.name for one in type(published))
        raise UserError(f"torchvision's {name} has no weights {source}; set weights to {known}, pretrained or a file")
    found = _download(name, published) if source == "pretrained" else load_weights(source)[0]
    # older files lack these counters, which eval mode does not use
    found = {key: torch.zeros(()) for key in wanted if key.endswith("num_batches_tracked")} | found
    state = {key: found[key].float() for key in wanted if key in found}
    if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in wanted.items()}:
        raise UserError(f"{source} does not hold the weights of torchvision's {name}; download {published.url}")
    return state


def _random(wanted: Mapping[str, Tensor]) -> State:
    """Random values that preserve the scale of the features (He et al. 2015), the same in every run."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in wanted.items():
        if value.ndim in (2, 4):
            state[key] = torch.empty(value.shape)
            nn.init.kaiming_normal_(state[key], nonlinearity="relu", generator=generator)
        else:  # biases and means 0, norms' scales and variances 1
            zero = key.endswith(("bias", "running_mean", "num_batches_tracked"))
            state[key] = torch.full(value.shape, 0.0 if zero else 1.0)
    return state


def _download(name: str, published: models.WeightsEnum) -> State:
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(
            f"{name}'s weights cannot be downloaded ({error}); put {published.url} into {folder}, "
            "or set the loss's `weights` to the path of that file"
        ) from None


# ---- timm ----------------------------------------------------------------------------------------------------------


def _open_timm(name: str, layers: Mapping[str, float] | None, weights: str, checkpointing: bool) -> Backbone:
    """Load a timm model. Layers have the names of its `feature_info`: `layer3`, `stages.2`, `blocks.11`."""
    options: dict[str, Any] = {"pretrained": weights != "random"}
    if weights not in ("pretrained", "random"):
        options["pretrained_cfg_overlay"] = {"state_dict": load_weights(weights)[0]}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # The complete model has the names of all layers, and refuses a file that features_only would load in part.
            whole, sizing = _create_timm(name, options)
            names = [info["module"] for info in whole.feature_info]
            layers = _in_order(name, layers or _even(*names[-4:]), names)
            places = [names.index(layer) for layer in layers]
            options |= sizing | {"features_only": True, "out_indices": places}
            patch = getattr(getattr(whole, "patch_embed", None), "patch_size", None)
            if patch:  # returns [B, channels, h, w] for models with another layout
                options["feature_cls"] = "getter"
            network, _ = _create_timm(name, options)
    except UserError:
        raise
    except Exception as error:  # timm, the Hugging Face client and the models raise many types
        raise UserError(
            f"timm/{name} cannot be loaded ({first_line(error)}); check the name and the network, or set the "
            "loss's `weights` to a file of the model's state dict"
        ) from None
    if checkpointing:
        try:
            getattr(network, "model", network).set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise UserError(f"timm/{name} cannot recompute its layers; set the loss's checkpointing: false") from None
    cut = _Patches(network, patch) if patch else network
    return Backbone(cut, layers, whole.pretrained_cfg["mean"], whole.pretrained_cfg["std"])


class _Patches(nn.Module):
    """Pad the input of a transformer to whole patches by repeating the last column and row."""

    def __init__(self, network: nn.Module, patch: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.patch = network, patch

    def forward(self, x: Tensor) -> list[Tensor]:
        pad = (0, -x.shape[-1] % self.patch[1], 0, -x.shape[-2] % self.patch[0])
        return self.network(F.pad(x, pad, mode="replicate"))


def _create_timm(name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Create the model so that it accepts any image size, if possible. Returns it and the options for that."""
    import timm

    for sizing in _sizings():
        try:
            return timm.create_model(name, **{**sizing, **options}), sizing
        except TypeError as error:  # a model without this option accepts any size
            if not sizing or "unexpected keyword" not in str(error):
                raise
    raise AssertionError("the last sizing is empty")


def _sizings() -> Iterator[dict[str, Any]]:
    yield {"dynamic_img_size": True}
    yield {"strict_img_size": False}
    yield {}
