"""The last step of the loader: copy raw crops to the device and synthesize LR images where the data has none."""

import torch
from torch import Tensor

from sr.data.batch import Batch, RawBatch, SubBatch
from sr.degrade.pipeline import Degradation


class OnDeviceBatch:
    """Turn a RawBatch on the host into a Batch on the device. One batch may mix sources with and without LR images.

    Samples that come with an LR image are neither degraded nor sharpened: their target is the ground truth.
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
        lq, gt = self._in_memory_format(lq), self._in_memory_format(gt)
        return Batch(lq=lq, gt=gt, target=gt if target is pairs[0].gt else self._in_memory_format(target))

    def _pair(self, group: SubBatch) -> Batch:
        if group.lq is None:
            return self.degradation(self._image(group.gt, torch.contiguous_format), group.positions)
        gt = self._image(group.gt, self.memory_format)
        return Batch(lq=self._image(group.lq, self.memory_format), gt=gt, target=gt)

    def _image(self, pixels: Tensor, layout: torch.memory_format) -> Tensor:
        """Copy uint8 pixels to the device and convert them to float in 0..1 there."""
        return pixels.to(self.device, non_blocking=True).to(torch.float32, memory_format=layout).div_(255)

    def _in_memory_format(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.memory_format)
