"""The last step of the loader: copy raw crops to the device and synthesize LR images where the data has none."""

import sys

import torch
from torch import Tensor
from tqdm import tqdm

from sr.data.batch import Batch, RawBatch, SubBatch
from sr.degrade.draws import upload
from sr.degrade.mixing import Mixer
from sr.degrade.pipeline import Degradation
from sr.distributed import comm


class OnDeviceBatch:
    """Turn a RawBatch on the host into a Batch on the device. One batch may mix sources with and without LR images.

    Samples that come with an LR image are neither degraded nor sharpened: their target is the ground truth.
    deep_note: printed by rank 0 when its first image of 16 bits comes.
    """

    def __init__(
        self,
        degradation: Degradation,
        mixer: Mixer | None = None,
        *,
        device: torch.device,
        channels_last: bool,
        deep_note: str = "",
    ) -> None:
        self.degradation, self.mixer, self.device, self._deep_note = degradation, mixer, device, deep_note
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, raw: RawBatch) -> Batch:
        pairs, groups = [self._pair(group) for group in raw.groups], raw.groups
        if self._deep_note and any(group.gt.element_size() == 2 for group in groups):
            if comm.is_main():
                tqdm.write(self._deep_note, file=sys.stderr)
            self._deep_note = ""
        batch = pairs[0] if len(pairs) == 1 else self._joined(pairs, [row for group in groups for row in group.rows])
        if self.mixer:
            keys = [key for group in groups for key in zip(group.rows, group.positions, strict=True)]
            batch = self.mixer(batch, [position for _, position in sorted(keys)])
        lq, gt = self._in_memory_format(batch.lq), self._in_memory_format(batch.gt)
        return Batch(lq=lq, gt=gt, target=gt if batch.target is batch.gt else self._in_memory_format(batch.target))

    def _joined(self, pairs: list[Batch], rows: list[int]) -> Batch:
        order = upload(torch.tensor(rows).argsort(), self.device)
        lq, gt = (torch.cat([getattr(pair, key) for pair in pairs])[order] for key in ("lq", "gt"))
        same = all(pair.target is pair.gt for pair in pairs)
        return Batch(lq=lq, gt=gt, target=gt if same else torch.cat([pair.target for pair in pairs])[order])

    def _pair(self, group: SubBatch) -> Batch:
        if group.lq is None:
            bits = 8 * group.gt.element_size()
            return self.degradation(self._image(group.gt, torch.contiguous_format), group.positions, bits=bits)
        gt = self._image(group.gt, self.memory_format)
        target = self.degradation.target(gt) if group.degraded else gt
        return Batch(lq=self._image(group.lq, self.memory_format), gt=gt, target=target)

    def _image(self, pixels: Tensor, layout: torch.memory_format) -> Tensor:
        """Copy uint8 or uint16 pixels to the device and convert them to float in 0..1 there."""
        white = torch.iinfo(pixels.dtype).max
        return pixels.to(self.device, non_blocking=True).to(torch.float32, memory_format=layout).div_(white)

    def _in_memory_format(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.memory_format)
