"""Build the validation that a set of options describes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr.config.options import Options, Part, ValidationSet
from sr.core.errors import UserError
from sr.data.paths import image_paths
from sr.data.source import Sample, Source
from sr.data.unpaired import Unpaired
from sr.degrade.pipeline import Degradation
from sr.evaluate.validate import Degrade, Results, ValSet, check_images, evaluate, source_set, val_set
from sr.inference.tiling import OVERLAP, TILE, tiled
from sr.train.build_nets import Nets

Way = Callable[[nn.Module], Callable[..., Any]]


@dataclass(frozen=True)
class Round:
    """Some sets, what of the generator they go through, and how that is measured."""

    sets: list[ValSet]
    metrics: list[str]
    way: Way = lambda net: net


class Validator:
    """Called with a generator on any rank, returns the same table on all. Collective."""

    def __init__(
        self,
        options: Options,
        nets: Nets,
        source: Callable[[Part], Any],
        degradation: Callable[..., Degradation],
    ) -> None:
        self.options, self._nets, self._source, self._make_degradation = options, nets, source, degradation
        self._metrics = list(dict.fromkeys([*(options.validation.metrics or self._usual()), *options.best_metrics]))
        self.rounds = [each for name, one in options.validation.sets.items() for each in self._rounds(name, one)]

    def __call__(self, net: nn.Module, *, first: int | None = None) -> Results:
        """first: only so many images of each set."""
        results = [self._measure(net, each, first) for each in self.rounds]
        return Results(
            rows=[row for result in results for row in result.rows],
            images={name: image for result in results for name, image in result.images.items()},
            sheets={name: image for result in results for name, image in result.sheets.items()},
            left_out={name: why for result in results for name, why in result.left_out.items()},
        )

    def _usual(self) -> list[str]:
        """The metrics that papers of the task report."""
        if self.options.scale > 1:
            return ["psnr_y", "ssim_y"] if self.options.measured_as_rgb else ["psnr_rgb", "ssim_rgb"]
        return ["l1", "psnr_rgb", "ssim_rgb", "sharpness", *(["chroma"] if self._nets.colours == "lab" else [])]

    def check_images(self) -> None:
        """Decode every image once. Raises ValidationFailed on all ranks. Collective."""
        check_images([val for each in self.rounds for val in each.sets])

    def _rounds(self, name: str, given: ValidationSet) -> list[Round]:
        if self.options.task == "cyclegan":
            return self._both_ways(name, given)
        if given.hr is not None:
            lr = _images(f"validation.sets.{name}.lr", given.lr) if given.lr else None
            hr, scale = _images(f"validation.sets.{name}.hr", given.hr), self.options.scale
            how: dict[str, Any] = {"scale": scale, "degrade": self._degrade, "channels": self._nets.channels}
            return [Round([val_set(name, hr=hr, lr=lr, **how)], self._metrics)]
        return [Round([self._all_of(self._source(given.source or {}), name, given)], self._metrics)]

    @property
    def _degrade(self) -> Degrade | None:
        """The options' degradation, at scale 1 alone, where the input would otherwise equal the ground truth.

        Its seed is 0 in every run, so that runs with different seeds can be compared."""
        if self.options.scale != 1 or not self.options.degrade:
            return None
        degradation = self._make_degradation(gt_size=None, seed=0)
        return lambda gt, number: degradation(gt[None], [number]).lq[0]

    def _all_of(
        self, source: Any, name: str, given: ValidationSet, direction: str | None = None, *, compare: bool = True
    ) -> ValSet:
        way, scale, colours = direction or self.options.data.direction, self.options.scale, self._nets.colours
        settings: dict[str, Any] = {"size": given.size, "scale": scale, "colours": colours, "compare": compare}
        settings |= {"input_channels": self._nets.channels[0]} if scale > 1 else {}
        return source_set(name, source, direction=way, degrade=self._degrade, **settings)

    def _both_ways(self, name: str, given: ValidationSet) -> list[Round]:
        """Pairs are measured in both directions. For unpaired images, the forward translation has no ground truth
        and is drawn only; the cycle reconstruction is measured against the image itself."""
        ways: dict[str, Way] = {way: attrgetter(way) for way in ("a_to_b", "b_to_a")}
        source = self._source(given.source or {})
        if not isinstance(source, Unpaired):
            sets = {way: self._all_of(source, f"{name}/{way}", given, way) for way in ways}
            return [Round([val], self._metrics, ways[way]) for way, val in sets.items()]
        rounds = []
        for side, there, back in (("a", "a_to_b", "b_to_a"), ("b", "b_to_a", "a_to_b")):
            alone = _Itself(getattr(source, side), side)
            shown = self._all_of(alone, f"{name}/{there}", given, compare=False)
            rounds.append(Round([shown], [], ways[there]))
            cycle = partial(_there_and_back, there=there, back=back)
            rounds.append(Round([self._all_of(alone, f"{name}/cycle_{side}", given)], self._metrics, cycle))
        return rounds

    def _measure(self, net: nn.Module, each: Round, first: int | None) -> Results:
        """Upscale in tiles, so that large images fit into memory next to the training state. Translate whole images,
        because instance norms depend on the whole image."""
        scale, run = self.options.scale, each.way(net)
        sets = each.sets if first is None else [replace(val, items=val.items[:first]) for val in each.sets]
        tiles: dict[str, Any] = {"tile": TILE if scale > 1 else 0, "overlap": OVERLAP, "multiple": _multiple(net)}
        device = next(net.parameters()).device

        def through(lq: Tensor) -> Tensor:
            """The output stays on CUDA, which measures it in a fraction of the time of the host, if it fits."""
            try:
                given = lq.to(device) if device.type == "cuda" else lq
                return tiled(run, given, scale=scale, device=device, **tiles)
            except torch.OutOfMemoryError:
                if device.type != "cuda":
                    raise
            return tiled(run, lq, scale=scale, device=device, **tiles)

        return evaluate(through, sets, scale=scale, metrics=each.metrics, images=self.options.validation.pictures)


class _Itself:
    """Images of one side of unpaired sets, each as its own target; where the side has pairs, their a or their b."""

    def __init__(self, source: Source, side: str) -> None:
        self._source, self._side, self.counts, self.name = source, side, source.counts, source.name

    def read(self, shard: int, index: int) -> Sample:
        gt, lq = self._source.read(shard, index)
        image = lq if self._side == "a" and lq is not None else gt
        return Sample(gt=image, lq=image)


def _multiple(net: nn.Module) -> int:
    """What the sides of an image have to be multiples of; of both generators of CycleGAN alike."""
    return int(getattr(getattr(net, "a_to_b", net), "multiple", 1))


def _there_and_back(net: Any, *, there: str, back: str) -> Callable[..., Any]:
    return lambda images: getattr(net, back)(getattr(net, there)(images))


def _images(key: str, given: Any) -> list[Path]:
    try:
        return image_paths(given)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
