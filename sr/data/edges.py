"""Pairs of an edge map and its photograph."""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from sr.config.registry import PartOf
from sr.core.errors import UserError
from sr.data.derived import Derived
from sr.data.source import Sample, Source
from sr.images import with_channels

NotNegative = Annotated[float, Field(ge=0)]


class Edges(Derived):
    """Pairs of edges and photograph: a is the edge map, bright on black, b the photograph.

    Edges are computed on the luma in 0..1 after a Gaussian of `sigma` pixels (0: none). canny (Canny 1986): 255 where
    the gradient is above `low` and connected to one above `high`. sobel: gradient magnitude, 0..255.
    """

    def __init__(
        self,
        *,
        of: Annotated[Callable[..., Source], PartOf("sources", factory=True)],
        method: Literal["canny", "sobel"] = "canny",
        sigma: NotNegative = 1.0,
        low: NotNegative = 0.1,
        high: NotNegative = 0.2,
        channels: tuple[int, int] = (1, 3),
    ) -> None:
        super().__init__(of(channels=(channels[1], channels[1])))
        if max(channels) > 4:
            raise UserError(
                f"edges are computed from grey or RGB, not from {max(channels)} channels; set num_out_ch to 3"
            )
        if low > high:
            raise UserError(f"edges: low {low} is above high {high}; swap them")
        self._method, self._sigma, self._low, self._high, self._channels = method, sigma, low, high, channels[0]

    def split(self, photo: np.ndarray) -> Sample:
        from skimage import feature, filters  # takes a second to import

        luma = with_channels(photo, 1)[..., 0].astype(np.float32) / 255
        if self._method == "canny":
            strength = feature.canny(luma, self._sigma, self._low, self._high).astype(np.float32)
        else:
            strength = filters.sobel(filters.gaussian(luma, self._sigma) if self._sigma else luma)
        edges = (strength * 255).round().clip(0, 255).astype(np.uint8)[..., None]
        return Sample(lq=with_channels(edges, self._channels), gt=photo)
