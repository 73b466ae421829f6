"""Synthesize training pairs from ground truth."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sr.core.errors import UserError
from sr.data.batch import Batch
from sr.degrade import canvas
from sr.degrade.draws import Draw, draws
from sr.degrade.one_of import OneOf
from sr.degrade.resize import Downscale, Resize
from sr.degrade.sharpen import Sharpen
from sr.degrade.stage import Stage
from sr.nets.device import multiplications

STAGES_STREAM, CROP_STREAM = 11, 12  # separate, so that changing the stages does not move the crops


class Degradation:
    """Synthesize LR images from ground truth by a list of stages; (seed, position) decides all draws of a sample.

    Args:
        gt_size: side of the random crop that is taken from both images at the end; None keeps the whole image.
        lq_bits: 8 or 16, the depth that LR images are rounded to; None for that of the ground truth.

    Raises:
        UserError: the stages do not end at the LR size.
    """

    def __init__(
        self, stages: Sequence[Stage], *, scale: int, gt_size: int | None, seed: int, lq_bits: int | None = None
    ) -> None:
        if stages and not _ends_at_lq_size(stages, scale == 1):
            raise UserError(
                "degrade: the stages do not end at the LR size; add {type: downscale} after the last resize"
            )
        self.stages, self.scale, self.gt_size, self.seed = list(stages), scale, gt_size, seed
        self.lq_bits, self.on_host = lq_bits, _needs_host(stages)
        self._target = next((s for s in stages if isinstance(s, Sharpen) and s.target), None)

    def __call__(self, gt: Tensor, positions: Sequence[int], *, bits: int = 8) -> Batch:
        """`pairs` with the targets of the reconstruction losses."""
        lq, gt = self.pairs(gt, positions, bits=bits)
        return Batch(lq=lq, gt=gt, target=self.target(gt))

    @torch.no_grad()
    def target(self, gt: Tensor) -> Tensor:
        """`gt` itself, or sharpened where a stage asks for it."""
        if self._target is None:
            return gt
        with torch.autocast(gt.device.type, enabled=False), multiplications(gt.device, tf32=False):
            return canvas.pad_and_stack(self._target.sharpen(canvas.unstack(gt)))

    @torch.no_grad()
    def pairs(self, gt: Tensor, positions: Sequence[int], *, bits: int = 8) -> tuple[Tensor, Tensor]:
        """Degrade a batch, without a host sync unless a stage needs the host.

        Args:
            gt: float [n, 3, H, W] in 0..1 on any device.
            positions: global position of each sample.
            bits: depth of the source.

        Returns:
            lq rounded to `lq_bits`, and gt with the same crop.
        """
        if not self.stages:
            raise UserError("the data has no lq images and `degrade` is empty; add stages, at least {type: downscale}")
        height, width = (side // self.scale for side in gt.shape[-2:])
        gt = gt[..., : height * self.scale, : width * self.scale]
        if canvas.is_accelerator(gt.device) and len(gt) > canvas.BATCH_SIZE:
            starts = range(0, len(gt), canvas.BATCH_SIZE)
            parts = [slice(start, start + canvas.BATCH_SIZE) for start in starts]
            made = [self.pairs(gt[part], positions[part], bits=bits) for part in parts]
            return torch.cat([lq for lq, _ in made]), torch.cat([full for _, full in made])
        key = partial(draws, self.seed, positions=positions, lq_size=(height, width), device=gt.device)
        with torch.autocast(gt.device.type, enabled=False), multiplications(gt.device, tf32=False):
            gts = canvas.unstack(gt)
            lqs = self._degrade(gts, key(STAGES_STREAM))
            gt, lq = self._cropped(gts, lqs, key(CROP_STREAM))
            white = 2 ** (self.lq_bits or bits) - 1
            return (lq * white).round_().clamp_(0, white).div_(white), gt

    def _degrade(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        for stage in self.stages:
            images = stage(images, draws)
        return images

    def _cropped(self, gts: list[Tensor], lqs: list[Tensor], draws: list[Draw]) -> tuple[Tensor, Tensor]:
        """Return the same random crop of each pair, stacked."""
        if self.gt_size is None:
            return canvas.pad_and_stack(gts), canvas.pad_and_stack(lqs)
        side = self.gt_size // self.scale
        corners = [[int(draw.rng.integers(length - side + 1)) for length in draw.lq_size] for draw in draws]
        larger = [[top * self.scale, left * self.scale] for top, left in corners]
        return canvas.crop(gts, larger, self.gt_size), canvas.crop(lqs, corners, side)


def _needs_host(stages: Sequence[Stage]) -> bool:
    inner = [stage for one in stages if isinstance(one, OneOf) for choice in one.choices for stage in choice]
    return any(getattr(stage, "host", False) for stage in stages) or (bool(inner) and _needs_host(inner))


def _ends_at_lq_size(stages: Sequence[Stage], before: bool) -> bool:
    """Whether the stages end at the LR size. Stages of plugins are assumed to keep the size."""
    for stage in stages:
        if isinstance(stage, OneOf):
            before = all(_ends_at_lq_size(choice, before) for choice in stage.choices)
        elif isinstance(stage, Downscale | Resize):
            before = isinstance(stage, Downscale)
    return before
