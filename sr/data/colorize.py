"""Pairs of a grey photograph and its colours."""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np

from sr.config.registry import PartOf
from sr.core.errors import UserError
from sr.data.derived import Derived
from sr.data.source import Sample, Source
from sr.images import with_channels
from sr.images.color import lab_codes


class Colorize(Derived):
    """Pairs for colorization, computed from photographs: a is grey, b its colours.

    space lab: a is L [h, w, 1] and b is ab [h, w, 2] of CIE Lab, coded as L * 255 / 100 and (ab / 110 + 1) / 2 * 255
    (see sr.images.color), as in the colorization model of pytorch-CycleGAN-and-pix2pix. rgb: a is the ITU-R 601 luma,
    b is RGB.
    """

    def __init__(
        self,
        *,
        of: Annotated[Callable[..., Source], PartOf("sources", factory=True)],
        space: Literal["lab", "rgb"] = "lab",
        channels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(of(channels=(3, 3)))
        self._space = space
        made = (1, 2) if space == "lab" else (1, 3)
        if channels not in (None, made):
            raise UserError(
                f"colorize with space {space} has {made[0]} channel in a and {made[1]} in b, not {channels[0]} and"
                f" {channels[1]}; set num_in_ch and num_out_ch of the generator to these (swapped for b_to_a)"
            )

    def split(self, photo: np.ndarray) -> Sample:
        if self._space == "rgb":
            return Sample(lq=with_channels(photo, 1), gt=photo)
        lab = lab_codes(photo)
        return Sample(lq=lab[..., :1], gt=lab[..., 1:])
