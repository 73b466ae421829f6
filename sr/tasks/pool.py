"""The pool of earlier fakes that keeps CycleGAN's discriminators from swinging with their generators."""

import torch
from torch import Tensor

from sr.distributed import comm


class ImagePool:
    """Shows a discriminator one of the last fakes in place of the newest, every second time (Shrivastava et al. 2017).

    size: images over all ranks; each keeps its share, at least one. 0: none, the newest are shown.
    Draws come from torch's global generator, which the engine seeds by (seed, step, micro-batch, rank).
    """

    def __init__(self, size: int) -> None:
        self.size = -(-size // comm.world())
        self.images: list[Tensor] = []

    def exchange(self, fakes: Tensor) -> Tensor:
        """fakes: [B, C, h, w] without gradient -> as many, each new or an old one that it takes the place of."""
        if not self.size:
            return fakes
        shown = []
        for fake in fakes:
            if len(self.images) < self.size:
                self.images.append(fake.clone())
                shown.append(fake)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                shown.append(self.images[place])
                self.images[place] = fake.clone()
            else:
                shown.append(fake)
        return torch.stack(shown)

    def state(self) -> Tensor | None:
        """Return the images of all ranks in order, [n, C, h, w] on the host; None if there are none. Collective."""
        ranks = comm.gather([image.cpu() for image in self.images])
        images = [image for row in zip(*ranks, strict=True) for image in row]
        return torch.stack(images) if images else None

    def load_state(self, images: Tensor | None) -> None:
        """Every world-th image; with as many ranks as there were, each has its own again."""
        mine = [] if images is None else list(images[comm.rank() :: comm.world()])
        self.images = mine[: self.size]
