"""Choose the tiles of an image from the free memory and the receptive field of the model."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property

import torch

from sr.inference.memory import pixels_that_fit, pixels_that_fit_surely
from sr.inference.precision import exact, out_of_memory
from sr.inference.receptive_field import SIDES, ReceptiveField, cached_field, measure_field, takes_means
from sr.inference.tiling import OVERLAP, SMALLEST, TILE, WHOLE, Tiles, choose_tiles, computed_pixels, overlap_for
from sr.nets.io.fingerprint import fingerprint
from sr.nets.io.load import Model

SEAM = 1 / 255  # of an output value: tiles that differ by more where they overlap are computed again
LARGE = 2_000_000  # parameters of a network whose measurement takes long enough to be announced


class TilePolicy:
    """The tiles of images for one model on one device. What memory did not hold is remembered for later images.

    tile, overlap: set by the user, in input pixels (tile 0: whole images). None: tiles as large as the free memory
    allows, with an overlap for the receptive field of the model, which is measured when the first image needs tiles.
    element: bytes of one activation.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device,
        tile: int | None,
        overlap: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.device, self.element = model, device, 4
        self._tile, self._overlap, self._say = tile, overlap, say
        self._exceeded: int | None = None  # pixels of a tile, after memory ran out
        self._reach: int | None = None  # input pixels, where tiles showed that the measured field is too small
        self._reported: set[str] = set()
        self.last: Tiles | None = None  # of the last image, None: whole

    # ---- tiles ----

    def tiles(self, height: int, width: int) -> Tiles:
        """Of an image of this size, in input pixels. Reports the first choice."""
        if self._tile is None:
            tiles = self._chosen(height, width)
        else:
            side = self._side(self._tile or max(height, width))
            tiles = WHOLE if max(height, width) <= side else Tiles(side, side, min(self.overlap, side // 2))
        self.last = tiles if tiles != WHOLE else None
        if tiles != WHOLE:
            self._report(height, width, tiles)
        return tiles

    def _side(self, tile: int) -> int:
        """Of a tile that the user chose, as far as memory holds it."""
        if self._exceeded is None:
            return tile
        multiple = self.model.multiple
        return max(min(tile, math.isqrt(self._exceeded)) // multiple * multiple, multiple)

    def _chosen(self, height: int, width: int) -> Tiles:
        if self._exceeded is None and height * width <= self._surely:
            return WHOLE
        limit = self._exceeded or self.limit
        if height * width <= limit:
            return WHOLE
        if self._exceeded is None:
            if self._overlap is None and self.field.pixels is None and self.device.type != "cpu":
                return WHOLE  # a GPU refuses what it does not hold, where a CPU's system ends the program
            limit = max(limit, max(TILE, 2 * self.overlap) ** 2)
        return choose_tiles(height, width, overlap=self.overlap, multiple=self.model.multiple, limit=limit)

    @cached_property
    def limit(self) -> int:
        """Input pixels for which the memory sufficed at first."""
        return pixels_that_fit(self.model.net, self.model.channels, self.device, element=self.element)

    @cached_property
    def _surely(self) -> int:
        return pixels_that_fit_surely(self.model.net, self.model.channels, self.device, element=self.element)

    def shrink(self, height: int, width: int) -> bool:
        """Halve the pixels of a tile after memory did not hold one of this size. False: it is the smallest already."""
        self._exceeded = height * width // 2
        return self._exceeded >= SMALLEST**2

    # ---- overlap ----

    @property
    def overlap(self) -> int:
        """The least overlap of neighbouring tiles."""
        if self._overlap is not None:
            return self._overlap
        reach = self._reach or self.field.pixels
        return OVERLAP if reach is None else overlap_for(reach + self.model.multiple, self.model.multiple)

    @cached_property
    def field(self) -> ReceptiveField:
        """The receptive field of the model in fp32, measured on first use or taken from the user's cache."""
        net = self.model.net
        if not any(True for _ in net.parameters()):
            return self._measured()
        return cached_field(fingerprint(net), self._measured)

    def _measured(self) -> ReceptiveField:
        net = self.model.net
        if sum(parameter.numel() for parameter in net.parameters()) > LARGE:
            self._say(f"measuring the receptive field of {self.model.name} for the overlap of tiles, once")
        try:
            return self._measured_on(self.device)
        except (RuntimeError, MemoryError) as error:
            if self.device.type == "cpu" or not out_of_memory(error):
                raise
        return self._measured_on(torch.device("cpu"))  # the memory of the error's frames is free by now

    def _measured_on(self, device: torch.device) -> ReceptiveField:
        net = self.model.net if device == self.device else deepcopy(self.model.net).to(device)
        kind = {"channels": self.model.channels, "scale": self.model.scale, "multiple": self.model.multiple}
        return measure_field(exact(net, device).run, pools=takes_means(net), device=device, **kind)

    def widen(self, seam: float, bound: float) -> bool:
        """Double the overlap after tiles differed by `seam` where they overlap. False: it is fixed, or cannot grow."""
        if seam <= max(bound, SEAM):
            return False
        differ = f"tiles differ by up to {seam * 255:.1f}/255 where they overlap"
        reach = self._reach or self.field.pixels if self._tile is self._overlap is None else None
        if reach is None or reach >= SIDES[-1] or self._exceeded is not None:
            self._report_once(f"{differ}; leave out --tile and --overlap, or use larger values", key="seam")
            return False
        self._reach = min(max(2 * reach, TILE // 8), SIDES[-1])
        self._say(f"{differ}; computing the image again with an overlap of {self.overlap} pixels")
        return True

    # ---- reports ----

    def _report(self, height: int, width: int, tiles: Tiles) -> None:
        name = self.model.name
        if self._overlap is None and self.field.pixels is None:
            trial = "" if math.isnan(self.field.beyond) else f", in a trial by up to {self.field.beyond * 255:.1f}/255"
            self._report_once(f"{name} depends on the whole image: tiles change the result{trial}", key="whole")
        elif self._overlap is None and tiles.overlap < self.overlap:
            sizes = f"tiles of {tiles.width}x{tiles.height} may show seams"
            self._report_once(f"{name} has a receptive field of {self.field.pixels} pixels: {sizes}", key="small")
        ratio = computed_pixels(height, width, tiles, self.model.multiple) / (height * width)
        cut = f"tiles of {tiles.width}x{tiles.height} with an overlap of {tiles.overlap}"
        self._report_once(f"{cut}, which compute {ratio:.2f} times the pixels of the image", key=str(tiles.overlap))

    def _report_once(self, sentence: str, *, key: str) -> None:
        if key not in self._reported:
            self._reported.add(key)
            self._say(sentence)
