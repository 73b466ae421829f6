"""The last step of the stream: raw crops onto the device, degraded where the data brought no lq."""

import torch
from torch import Tensor

from sr.data.batch import Batch, RawBatch, SubBatch
from sr.degrade.pipeline import Degradation


class OnDeviceBatch:
    """Raw -> Pair on the device. Sources of either kind may be mixed in one micro-batch.

    Where the data brings its own lq, nothing is degraded or sharpened: target is gt.
    """

    def __init__(self, degradation: Degradation, *, device: torch.device, channels_last: bool) -> None:
        self.degradation, self.device = degradation, device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, raw: RawBatch) -> Batch:
        pairs = [self._pair(group) for group in raw.groups]
        if len(pairs) == 1:
            lq, gt, target = pairs[0].lq, pairs[0].gt, pairs[0].target
        else:
            rows = torch.tensor([row for group in raw.groups for row in group.rows]).argsort().to(self.device)
            lq, gt, target = (torch.cat([getattr(p, k) for p in pairs])[rows] for k in ("lq", "gt", "target"))
        lq, gt = self._laid_out(lq), self._laid_out(gt)
        return Batch(lq=lq, gt=gt, target=gt if target is pairs[0].gt else self._laid_out(target))

    def _pair(self, group: SubBatch) -> Batch:
        if group.lq is None:
            return self.degradation(self._image(group.gt, torch.contiguous_format), group.positions)
        gt = self._image(group.gt, self.memory_format)
        return Batch(lq=self._image(group.lq, self.memory_format), gt=gt, target=gt)

    def _image(self, pixels: Tensor, layout: torch.memory_format) -> Tensor:
        """uint8 on the host -> float 0..1 on the device; bytes travel, not floats."""
        return pixels.to(self.device, non_blocking=True).to(torch.float32, memory_format=layout).div_(255)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.memory_format)
