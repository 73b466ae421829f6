"""Losses on the features of a network trained to recognise things (Johnson et al. 2016)."""

import warnings
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import VGG19_Weights

from sr.construct import nearest
from sr.errors import UserError
from sr.nets.layouts import State, load_weights

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""VGG19's (channels, convolutions) between poolings; Simonyan and Zisserman 2014, column E."""

_REAL_ESRGAN = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


class VGG19(nn.Module):
    """sum over layers of weight * mean |features(output) - features(target)|, features before the ReLU (ESRGAN).

    layers: names `conv1_1` to `conv5_4` and their weights; the default is Real-ESRGAN's.
    weights: `torchvision` (ImageNet; downloaded once, 548 MB), a file of that state dict, or `random` (for trials
    of everything else: the loss means nothing then).
    The network is frozen and ends at the last layer named. It runs in the precision of the surrounding autocast;
    the distance is float32. Raises UserError for unknown layers and for weights that cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        layers: Annotated[dict[str, float], Field(min_length=1)] = _REAL_ESRGAN,
        weights: str = "torchvision",
    ) -> None:
        super().__init__()
        places = _conv_places()
        for name in layers:
            if name not in places:
                hint = nearest(name, list(places))
                raise UserError(f"vgg19 has no layer '{name}'; name any of {', '.join(places)}.{hint}")
        self.layers = {places[name]: weight for name, weight in layers.items()}
        self.features = _network(depth=max(self.layers) + 1)
        self.features.load_state_dict(_weights(weights, self.features.state_dict()), assign=True)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._extract(target)
        got = self._extract(output)
        terms = [weight * F.l1_loss(got[place].float(), wanted[place].float()) for place, weight in self.layers.items()]
        return torch.stack(terms).sum()

    def _extract(self, images: Tensor) -> dict[int, Tensor]:
        x = (images.float() - self.mean) / self.std
        found = {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.layers:
                found[place] = x
        return found


def _conv_places() -> dict[str, int]:
    """`conv3_4` and its like -> the place of that layer among VGG19's convolutions, ReLUs and poolings."""
    places, place = {}, 0
    for block, (_, convolutions) in enumerate(_BLOCKS, 1):
        for n in range(1, convolutions + 1):
            places[f"conv{block}_{n}"] = place
            place += 2  # a ReLU follows
        place += 1  # a pooling follows
    return places


def _network(depth: int) -> nn.Sequential:
    """The first `depth` layers of VGG19, without memory for weights yet."""
    layers: list[nn.Module] = []
    channels = 3
    with torch.device("meta"):
        for width, convolutions in _BLOCKS:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:depth])


def _weights(source: str, wanted: State) -> State:
    """A value for each of the `wanted` parameters, in float32."""
    if source == "random":
        warnings.warn("vgg19 runs with random weights: its loss is no measure of perception", stacklevel=3)
        return _random(wanted)
    found = _download() if source == "torchvision" else load_weights(source)[0]
    state = {key: found[f"features.{key}"].float() for key in wanted if f"features.{key}" in found}
    if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in wanted.items()}:
        raise UserError(f"{source} holds no weights of torchvision's vgg19; download {VGG19_Weights.IMAGENET1K_V1.url}")
    return state


def _random(wanted: Mapping[str, Tensor]) -> State:
    """Draws that keep the features' scale from layer to layer (He et al. 2015), the same in every run."""
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.zeros(value.shape) for key, value in wanted.items()}
    for value in state.values():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
    return state


def _download() -> State:
    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(
            f"vgg19's weights cannot be downloaded ({error}); put {weights.url} into {folder}, "
            "or set the loss's `weights` to the path of that file"
        ) from None
