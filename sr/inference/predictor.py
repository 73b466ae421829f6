"""Run a generator on images of any size: tiles, precision, and recovery when memory runs out."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sr.core.errors import UserError
from sr.inference.memory import free_bytes
from sr.inference.precision import Choice, Precision, Way, choose, out_of_memory
from sr.inference.receptive_field import probes
from sr.inference.tile_policy import SEAM, TilePolicy
from sr.inference.tiling import check_overlap, tiled_together
from sr.inference.transfer import HostCopy, to_device
from sr.nets.io.load import Model

TOGETHER = 2_000_000  # input pixels of a batch of tiles on a GPU at most
LOOK = 128  # input pixels: side of the part of the first image that is used to choose a precision

OnTiles = Callable[[int, int], None]
Run = Callable[[Tensor], Tensor]


def report(sentence: str) -> None:
    """Print a message to stderr without breaking the progress bar, with the rank if there are several processes."""
    rank = os.environ.get("RANK", "0")
    tqdm.write(f"sr: {sentence}" if rank == "0" else f"sr (rank {rank}): {sentence}", file=sys.stderr)


class Predictor:
    """Run a model on images: choose precision and tiles, and recover when memory runs out.

    tile, overlap: see `TilePolicy`. Images come from the host and results return there. CUDA also blends the tiles,
    where its memory holds the whole output. When memory runs out, the host blends, then batches and then tiles are
    halved, and the images are computed again.
    precision: see `sr.inference.precision.choose`; chosen on the first image.
    tta: return the mean over all 8 flips and rotations.
    say: called with each message, once.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device | str = "cpu",
        tile: int | None = None,
        overlap: int | None = None,
        precision: Precision = "fp32",
        tta: bool = False,
        say: Callable[[str], None] = report,
    ) -> None:
        if tile is not None:
            check_overlap(tile, overlap or 0)
        self.model, self.device = model, torch.device(device)
        self.precision: Precision = precision if any(True for _ in model.net.parameters()) else "fp32"
        self.tta = tta
        self._say = say
        self.policy = TilePolicy(model, device=self.device, tile=tile, overlap=overlap, say=say)
        self._together: int | None = None
        self._choice: Choice | None = None
        self._blends_on_device = self.device.type == "cuda"
        model.net.to(self.device)

    def __call__(self, images: Sequence[Tensor], on_tiles: OnTiles | None = None) -> list[Tensor]:
        """Run the model on images on the host: [c, h, w] in 0..1 -> float32 [C, h*scale, w*scale], clipped to 0..1.

        Raises UserError if the output is not finite, torch.OutOfMemoryError if the smallest tile does not fit.
        """
        return self.start(images, on_tiles)()

    @torch.no_grad()
    def start(
        self, images: Sequence[Tensor], on_tiles: OnTiles | None = None, *, quantize: bool = False
    ) -> Callable[[], list[Tensor]]:
        """Start `__call__`. The function that is returned waits for the results; a GPU computes them meanwhile.

        quantize: return uint8 in 0..255 with channels last in memory, a quarter of what is copied and kept.
        """
        way = self._chosen(images[0]).way
        begun = self._fitted(way.run, images, on_tiles, quantize)
        return lambda: self._finished(way, begun, images, on_tiles, quantize)

    @torch.no_grad()
    def _finished(
        self, way: Way, made: "list[_Result]", images: Sequence[Tensor], on_tiles: OnTiles | None, quantize: bool
    ) -> list[Tensor]:
        """Wait for `made`; compute again what was not finite, was cut too small, or was begun in another precision."""
        assert self._choice is not None
        if way is self._choice.way:
            self._widened(way, made, images, on_tiles, quantize)
            if way.name != "fp32" and not all(each.is_finite() for each in made):
                self._say(f"{way.name} overflowed; using fp32 from now on")
                self._choice = choose(self.model.net, "fp32", device=self.device, looks=[])
                self.policy.element = self._choice.way.element
        if way is not self._choice.way:
            way = self._choice.way
            made = self._fitted(way.run, images, on_tiles, quantize)
            self._widened(way, made, images, on_tiles, quantize)
        if not all(each.is_finite() for each in made):
            raise UserError(f"{self.model.name} returned values that are not finite; use another model")
        return [each.pixels.wait().permute(2, 0, 1) if quantize else each.pixels.wait() for each in made]

    @property
    def used(self) -> str:
        """Device, precision and the tiles of the last image, such as `cuda:0, fp16, tiles of 512 x 512 pixels`."""
        precision, tiles = self._choice.way.name if self._choice else self.precision, self.policy.last
        shown = f"tiles of {tiles.height or 'full'} x {tiles.width or 'full'} pixels" if tiles else "whole images"
        return f"{self.device}, {precision}, {shown}"

    # ---- precision ----

    def _chosen(self, image: Tensor) -> Choice:
        if self._choice is None:
            tests = torch.cat(probes(LOOK // 2, LOOK // 2, self.model.channels))
            looks = [_centre(image, LOOK, self.model.multiple), tests]
            try:
                choice = choose(self.model.net, self.precision, device=self.device, looks=looks)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                choice = choose(self.model.net, "fp32", device=self.device, looks=[])
                self._say(f"not enough memory to compare precisions; using {choice.way.name}")
            self._choice, self.policy.element = choice, choice.way.element
            if choice.refused:
                self._say(f"{', '.join(choice.refused)}; using {choice.way.name}")
            if self.precision in ("mixed", "bf16", "fp16") and choice.way.name != "fp32":
                self._say(f"{choice.way.name} differs from fp32 by up to {choice.deviation * 255:.2f}/255")
        return self._choice

    # ---- tiles ----

    def _fitted(self, run: Run, images: Sequence[Tensor], on_tiles: OnTiles | None, quantize: bool) -> "list[_Result]":
        """Start all images, in tiles that fit the memory."""
        net = _guarded(_ensemble(run) if self.tta else run, self.device)
        while True:
            place = self._blend_device(images)
            try:
                tiles = [self.policy.tiles(*image.shape[-2:]) for image in images]
                outputs, seams = tiled_together(
                    net,
                    [to_device(image[None], place) for image in images],
                    scale=self.model.scale,
                    tiles=tiles,
                    multiple=self.model.multiple,
                    together=self._tiles_together,
                    on_tiles=on_tiles,
                )
                return [_result(output[0], seam, quantize) for output, seam in zip(outputs, seams, strict=True)]
            except (_TooLarge, torch.OutOfMemoryError) as error:
                if place.type == "cuda":
                    self._blends_on_device = False
                elif isinstance(error, _TooLarge):
                    self._shrink(error)
                else:
                    raise
                error.__traceback__ = None  # its frames hold tensors
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _widened(
        self, way: Way, made: "list[_Result]", images: Sequence[Tensor], on_tiles: OnTiles | None, quantize: bool
    ) -> None:
        """Replace results whose tiles differ by those of a larger overlap, as far as the policy allows."""
        left = list(range(len(images)))
        while left:
            seams = {n: made[n].seam() for n in left}
            widened = self.policy.widen(max(seams.values()), self._rounding)
            left = [n for n, seam in seams.items() if seam > self._rounding] if widened else []
            again = self._fitted(way.run, [images[n] for n in left], on_tiles, quantize) if left else []
            for n, result in zip(left, again, strict=True):
                made[n] = result

    @property
    def _tiles_together(self) -> int:
        """Input pixels of tiles that share a batch."""
        if self._together is None:  # a CPU is no faster with batches
            self._together = 0 if self.device.type == "cpu" else min(self.policy.limit, TOGETHER)
        return self._together

    def _blend_device(self, images: Sequence[Tensor]) -> torch.device:
        """Where tiles are blended: on the device, where the outputs take at most a quarter of its free memory."""
        outputs = sum(4 * self.model.out_channels * self.model.scale**2 * math.prod(each.shape[-2:]) for each in images)
        fits = self._blends_on_device and outputs <= free_bytes(self.device) / 4
        return self.device if fits else torch.device("cpu")

    @property
    def _rounding(self) -> float:
        """By how much tiles of sufficient overlap may differ."""
        return max(SEAM, 3 * self._choice.deviation if self._choice else 0.0)

    def _shrink(self, error: "_TooLarge") -> None:
        count, _, height, width = error.shape
        size = f"{width}x{height}"
        if count > 1:
            self._together = count // 2 * height * width
            self._say(f"not enough memory for {count} tiles of {size} at once; using {count // 2}")
        elif not self.policy.shrink(height, width):
            raise error.failure
        else:
            self._say(f"not enough memory for a tile of {size}; using tiles of half as many pixels")


class _Result(NamedTuple):
    """An output on its way to the host. seen: [seam, least value, largest value] before clipping."""

    pixels: HostCopy
    seen: HostCopy

    def seam(self) -> float:
        return self.seen.wait()[0].item()

    def is_finite(self) -> bool:
        return finite(self.seen.wait()[1:])


def finite(extremes: Tensor) -> bool:
    """Whether the least and the largest value are finite: then all are."""
    return bool(torch.isfinite(extremes).all())


def _result(output: Tensor, seam: Tensor, quantize: bool) -> _Result:
    """Clip [C, h, w], and copy it to the host; quantize: as uint8 [h, w, C]. Waits for nothing."""
    seen = torch.stack([seam, *output.aminmax()])
    output = output.clamp_(0, 1)
    if quantize:
        levels = output.mul_(255).round_().permute(1, 2, 0)
        output = torch.empty(levels.shape, dtype=torch.uint8, device=levels.device).copy_(levels)
    return _Result(HostCopy(output), HostCopy(seen))


class _TooLarge(Exception):
    """A batch of tiles of this shape does not fit. failure: the error without its frames, which hold tensors."""

    def __init__(self, shape: torch.Size, failure: BaseException) -> None:
        super().__init__(shape)
        self.shape, self.failure = shape, failure


def _guarded(run: Run, device: torch.device) -> Run:
    """Run on the device. Raises _TooLarge when memory runs out; other errors are passed on."""

    def guarded(tiles: Tensor) -> Tensor:
        try:
            return run(to_device(tiles, device))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = error.with_traceback(None)
        raise _TooLarge(tiles.shape, failure)

    return guarded


def _ensemble(run: Run) -> Run:
    """The mean of the outputs for the 8 flips and rotations of the input (self-ensemble, EDSR, section 3.4)."""

    def ensemble(tiles: Tensor) -> Tensor:
        total: Any = 0
        for turns in range(4):
            for flip in ([], [3]):
                made = run(tiles.rot90(turns, (2, 3)).flip(flip))
                total = total + made.flip(flip).rot90(-turns, (2, 3))
        return total / 8

    return ensemble


def _centre(image: Tensor, side: int, multiple: int) -> Tensor:
    """[1, c, at most side, at most side] of its center, in the phase of the image."""
    rows, columns = (
        slice((length - min(length, side)) // 2 // multiple * multiple, None) for length in image.shape[-2:]
    )
    return image[None, :, rows, columns][..., :side, :side]
