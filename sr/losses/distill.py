"""Distill a larger generator (Hinton et al. 2015; features as in FitNets, Romero et al. 2015)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.data.batch import Batch
from sr.losses.perceptual import DISTANCES, Distance
from sr.losses.weight_schedules import NonNegative
from sr.nets.io.load import open_model


class Distill(nn.Module):
    """distance(output, teacher(lq)) + feature_weight * sum of distances of features.

    teacher: a generator file of sr or any that spandrel opens; it is frozen and costs one forward pass.
    features: names of the generator's modules, and for each the teacher's module to compare it with, for example
    {conv_body: conv_body}; both must have outputs of the same shape. Call `watch` with the generator first. Outputs
    are read after the forward pass, so after an in-place activation.
    Raises UserError if generator and teacher do not fit.
    """

    def __init__(
        self,
        *,
        teacher: str,
        distance: Distance = "l1",
        features: dict[str, str] = {},  # noqa: B006  # never changed
        feature_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.file, model = teacher, open_model(teacher)
        self.teacher, self.scale = model.net.requires_grad_(False), model.scale
        self.channels = model.channels
        self.distance, self.features, self.feature_weight = DISTANCES[distance](), features, feature_weight
        self._seen: dict[str, dict[str, Tensor]] = {"generator": {}, "teacher": {}}
        self._hook("teacher", self.teacher, list(features.values()))

    def watch(self, generator: nn.Module) -> None:
        """Check that teacher and generator fit, and record the generator's features from now on.

        generator: the raw module that training runs, on the teacher's device.
        """
        scale = getattr(generator, "scale", self.scale)
        if scale != self.scale:
            raise UserError(
                f"{self.file} upscales by {self.scale}, the generator by {scale}; give a teacher of its scale"
            )
        if not self.features:
            return
        self._hook("generator", generator, list(self.features))
        was_training = generator.training
        example = torch.zeros(1, self.channels, 32, 32, device=next(generator.parameters()).device)
        with torch.no_grad():
            generator.eval()(example)
            self.teacher(example)
        generator.train(was_training)
        for of, names in (("generator", self.features), ("teacher", self.features.values())):
            for name in names:
                if not isinstance(self._seen[of].get(name), Tensor):
                    raise UserError(f"features: '{name}' of the {of} returns no tensor; choose a module that it calls")
        for mine, theirs in self.features.items():
            ours, wanted = list(self._seen["generator"][mine].shape), list(self._seen["teacher"][theirs].shape)
            if ours != wanted:
                raise UserError(
                    f"features: '{mine}' has shape {ours} and the teacher's '{theirs}' {wanted} for a 32 x 32 input; "
                    "choose modules with outputs of the same shape"
                )

    def compare(self, output: Tensor, *, batch: Batch, average: object) -> Tensor:
        with torch.no_grad():
            wanted = _plain(self.teacher(batch.lq))
        loss: Tensor = self.distance(output, wanted)
        for mine, theirs in self.features.items():
            pair = self._seen["generator"].pop(mine), _plain(self._seen["teacher"].pop(theirs))
            loss = loss + self.feature_weight * self.distance(*pair)
        return loss

    def _hook(self, of: str, net: nn.Module, names: list[str]) -> None:
        modules = dict(net.named_modules())
        for name in names:
            if name not in modules:
                raise UserError(
                    f"features: the {of} has no module '{name}'; it has {', '.join(n for n, _ in net.named_children())}"
                )
            modules[name].register_forward_hook(partial(_note, self._seen[of], name))


def _note(seen: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    seen[name] = output


def _plain(x: Tensor) -> Tensor:
    """A tensor that autograd accepts: those of spandrel are made in inference mode."""
    return x.clone() if x.is_inference() else x
