"""Total variation: a prior on the output alone."""

from typing import Literal

from torch import Tensor, nn

from sr.images.filters import length


class TV(nn.Module):
    """The mean difference between neighbours (Rudin, Osher and Fatemi 1992); the target is not used.

    anisotropic: mean |d_x| + mean |d_y|, as in basicsr. isotropic: mean sqrt(d_x² + d_y²), independent of the angle.
    Too high a weight makes flat patches.
    """

    def __init__(self, *, kind: Literal["anisotropic", "isotropic"] = "anisotropic") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        across, down = output.float().diff(dim=-1), output.float().diff(dim=-2)
        if self.kind == "anisotropic":
            return across.abs().mean() + down.abs().mean()
        return length(across[..., :-1, :], down[..., :-1]).mean()
