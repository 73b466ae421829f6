"""A generator at work on images: in which tiles, in which precision, and what to do when memory runs out."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sr.core.errors import UserError
from sr.inference.precision import Choice, Precision, choose, exact, out_of_memory
from sr.inference.receptive_field import Reach, measured_reach, probe, takes_means
from sr.inference.tiling import OVERLAP, TILE, check_overlap, overlap_for, tiled_together
from sr.nets.io.load import Model

LEAST = 32  # the smallest tile that is tried when memory runs out
WHOLE = 2**20  # pixels that a CPU takes whole: its system ends a program sooner than refuse it memory
LOOK = 128  # side of what is looked at of the first image, to choose a precision

OnTiles = Callable[[int, int], None]
Run = Callable[[Tensor], Tensor]


def tell(sentence: str) -> None:
    """On standard error, beside a progress bar; of several processes each with its rank."""
    rank = os.environ.get("RANK", "0")
    tqdm.write(f"sr: {sentence}" if rank == "0" else f"sr (rank {rank}): {sentence}", file=sys.stderr)


class Predictor:
    """What a model makes of images. What it finds out on the way it keeps, and tells once, in one line each.

    tile, overlap: input pixels. tile 0: images whole; None: TILE (twice that on CUDA), and whole for a net that looks
    at all of an image, whose tiles would differ (on a CPU up to WHOLE). overlap None: as far as the net looks with its
    own weights (`sr.inference.receptive_field`), which is measured when the first image needs tiles. Images and
    results stay on the host;
    the device holds a batch of tiles. When its memory runs out, batches and then tiles are halved and the images begun

    again.
    precision: see `sr.inference.precision.choose`; decided on the first image. tta: the mean over all 8 flips and
    rotations.
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
        say: Callable[[str], None] = tell,
    ) -> None:
        if tile is not None:
            check_overlap(tile, overlap or 0)
        self.model, self.device = model, torch.device(device)
        self.precision: Precision = precision if any(True for _ in model.net.parameters()) else "fp32"
        self.tta = tta
        self._tile, self._overlap, self._say = tile, overlap, say
        self._most = 0  # side of the largest tile that memory holds, known once it has run out
        self._together = 0 if self.device.type == "cpu" else 4 * TILE**2  # a CPU is no faster with batches
        self._choice: Choice | None = None
        self._told: set[str] = set()
        model.net.to(self.device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor], on_tiles: OnTiles | None = None) -> list[Tensor]:
        """[c, h, w] in 0..1 on the host, each -> float32 [C, h*scale, w*scale] there, clipped to 0..1.

        Raises UserError where the net returns numbers that are no image, torch.OutOfMemoryError where memory does
        not hold the smallest tile.
        """
        way = self._chosen(images[0]).way
        made = self._fitted(way.run, images, on_tiles)
        if way.name != "fp32" and not all(torch.isfinite(each).all() for each in made):
            self._say(f"{way.name} overflowed; from here on in fp32")
            self._choice = choose(self.model.net, "fp32", device=self.device, looks=[])
            made = self._fitted(self._choice.way.run, images, on_tiles)
        if not all(torch.isfinite(each).all() for each in made):
            raise UserError(f"{self.model.name} returned values that are not finite; the model is broken, give another")
        return [each[0].clamp_(0, 1) for each in made]

    # ---- precision ----

    def _chosen(self, image: Tensor) -> Choice:
        if self._choice is None:
            looks = [_centre(image, LOOK, self.model.multiple), probe(LOOK // 2, self.model.channels)]
            try:
                choice = choose(self.model.net, self.precision, device=self.device, looks=looks)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                choice = choose(self.model.net, "fp32", device=self.device, looks=[])
                self._say(f"no memory to compare precisions; going on in {choice.way.name}")
            self._choice = choice
            if choice.refused:
                self._say(f"{', '.join(choice.refused)}: now in {choice.way.name}")
            if self.precision in ("mixed", "bf16", "fp16") and choice.way.name != "fp32":
                self._say(f"{choice.way.name} differs from fp32 by up to {choice.deviation * 255:.2f}/255")
        return self._choice

    # ---- tiles ----

    def _fitted(self, run: Run, images: Sequence[Tensor], on_tiles: OnTiles | None) -> list[Tensor]:
        """All images in tiles that memory holds."""
        net = _guarded(_ensemble(run) if self.tta else run, self.device)
        while True:
            tile = self._side(images)
            try:
                return tiled_together(
                    net,
                    [image[None] for image in images],
                    scale=self.model.scale,
                    tile=tile,
                    overlap=0 if _longest(images) <= tile else self.overlap(tile),
                    multiple=self.model.multiple,
                    together=self._together,
                    on_tiles=on_tiles,
                )
            except _TooLarge as error:
                self._shrink(error)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _side(self, images: Sequence[Tensor]) -> int:
        """Of a tile, for these images; 0 for whole."""
        tile = self._tile
        if tile is None:
            tile = TILE if self.device.type == "cpu" else 2 * TILE
            if _longest(images) > tile:
                tile = max(tile, 2 * self._measured)
                if self.reach.pixels is None and (self.device.type != "cpu" or _largest(images) <= WHOLE):
                    tile = 0
        return min(tile or self._most, self._most) if self._most else tile

    def overlap(self, tile: int) -> int:
        """Of tiles of this side."""
        if not tile:
            return 0
        if self._overlap is not None:
            return min(self._overlap, tile // 2)
        if self.reach.pixels is None:
            differ = "" if math.isnan(self.reach.beyond) else f", in a trial by up to {self.reach.beyond * 255:.1f}/255"
            self._tell_once(f"{self.model.name} looks at all of an image: its tiles differ from the whole{differ}")
        elif self._measured > tile // 2:
            self._tell_once(f"{self.model.name} looks {self.reach.pixels} pixels far: tiles of {tile} may show seams")
        return min(self._measured, tile // 2)

    @cached_property
    def reach(self) -> Reach:
        """How far the net looks, measured in fp32 on first use."""
        run = exact(self.model.net, self.device).run
        kind = {"channels": self.model.channels, "scale": self.model.scale, "multiple": self.model.multiple}
        return measured_reach(run, pools=takes_means(self.model.net), device=self.device, **kind)

    @property
    def _measured(self) -> int:
        """The overlap that the reach asks for."""
        if self.reach.pixels is None:
            return OVERLAP
        return overlap_for(self.reach.pixels + self.model.multiple, self.model.multiple)

    def _shrink(self, error: "_TooLarge") -> None:
        count, _, height, width = error.shape
        tile = -(-max(height, width) // 2 // self.model.multiple) * self.model.multiple
        if count > 1:
            self._together = count // 2 * height * width
            self._say(f"no memory for {count} tiles of {width}x{height} at once; going on with {count // 2}")
        elif tile < LEAST:
            raise error.failure
        else:
            self._most = tile
            self._say(f"no memory for tiles of {width}x{height}; going on with tiles of {tile}")

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(sentence)


class _TooLarge(Exception):
    """Memory does not hold what the net makes of tiles of this shape. failure: what was raised, without its frames,
    which hold tensors."""

    def __init__(self, shape: torch.Size, failure: BaseException) -> None:
        super().__init__(shape)
        self.shape, self.failure = shape, failure


def _guarded(run: Run, device: torch.device) -> Run:
    """On the device; raises _TooLarge where memory runs out, and any other error as it is."""

    def guarded(tiles: Tensor) -> Tensor:
        try:
            return run(tiles.to(device))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = error.with_traceback(None)
        raise _TooLarge(tiles.shape, failure)

    return guarded


def _ensemble(run: Run) -> Run:
    """The mean over the 8 flips and rotations of the input, each turned back (self-ensemble of EDSR, section 3.4)."""

    def ensemble(tiles: Tensor) -> Tensor:
        total: Any = 0
        for turns in range(4):
            for flip in ([], [3]):
                made = run(tiles.rot90(turns, (2, 3)).flip(flip))
                total = total + made.flip(flip).rot90(-turns, (2, 3))
        return total / 8

    return ensemble


def _largest(images: Sequence[Tensor]) -> int:
    return max(image.shape[-2] * image.shape[-1] for image in images)


def _longest(images: Sequence[Tensor]) -> int:
    return max(side for image in images for side in image.shape[-2:])


def _centre(image: Tensor, side: int, multiple: int) -> Tensor:
    """[1, c, at most side, at most side] of its middle, in the image's own phase."""
    rows, columns = (
        slice((length - min(length, side)) // 2 // multiple * multiple, None) for length in image.shape[-2:]
    )
    return image[None, :, rows, columns][..., :side, :side]
