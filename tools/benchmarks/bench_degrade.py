"""Degradation of a batch and synthesis of its blur kernels, against Real-ESRGAN.

The reference is `RealESRGANModel.feed_data` of the package basicsr with three changes: its device is configurable,
`filter2D` receives contiguous images (it fails on others), and its pool of training pairs is disabled. Ours is the
recipe options/realesrgan_x4.yml. Both draw their own parameters from the same ranges;
tests/test_degrade_parity.py compares the results for equal parameters.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from bench_harness import Arm, Row, compare

RECIPE = Path(__file__).parents[2] / "options" / "realesrgan_x4.yml"
KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
SHARES = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
FEED = {
    "resize_prob": [0.2, 0.7, 0.1], "resize_range": [0.15, 1.5], "gaussian_noise_prob": 0.5, "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3], "gray_noise_prob": 0.4, "jpeg_range": [30, 95], "second_blur_prob": 0.8,
    "resize_prob2": [0.3, 0.4, 0.3], "resize_range2": [0.3, 1.2], "gaussian_noise_prob2": 0.5, "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2.5], "gray_noise_prob2": 0.4, "jpeg_range2": [30, 95],
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=4, help="images per batch (%(default)s)")
    parser.add_argument("--gt", type=int, default=400, help="side of the images before the crop (%(default)s)")
    parser.add_argument("--halo", type=int, default=16, help="crop first, with this margin on each side (%(default)s)")
    parser.add_argument("--crop", type=int, default=256, help="side of the training crops (%(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="batches per measurement (%(default)s)")
    parser.add_argument("--kernels", type=int, default=48, help="samples per kernel synthesis (%(default)s)")


def run(args: argparse.Namespace) -> list[Row]:
    gt = photographs(args.batch, args.gt).to(args.device)
    middle = (args.gt - args.crop) // 2 - args.halo
    window = slice(middle, middle + args.crop + 2 * args.halo)
    first = f"cropped to {args.crop + 2 * args.halo} first"
    made = args.batches * args.batch
    arms = [
        _arm("reference", made, feed(args), gt, args.batches),
        _arm("ours", made, ours(args), gt, args.batches),
        _arm(f"ours, {first}", made, ours(args), gt[..., window, window].contiguous(), args.batches),
    ]
    rows = compare(f"degradation, batch {args.batch}, gt {args.gt}", arms, rounds=args.pairs, device=args.device,
                   memory=args.memory)  # fmt: skip
    return rows + compare("blur kernels", _kernels(args), rounds=args.pairs, device=args.device, memory=False)


def photographs(batch: int, side: int) -> Any:
    """Return float [batch, 3, side, side], cropped from photographs of scikit-image."""
    import numpy as np
    import torch
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    padded = [np.pad(p, [(0, max(0, side - n)) for n in p.shape[:2]] + [(0, 0)], "symmetric") for p in photos]
    planes = [torch.from_numpy(photo[:side, :side].transpose(2, 0, 1).copy()).float() / 255 for photo in padded]
    return torch.stack([planes[k % len(planes)] for k in range(batch)])


def _arm(name: str, items: int, degrade: Callable[[Any, int], Any], gt: Any, batches: int) -> Arm:
    numbers = count()

    def work() -> None:
        for _ in range(batches):
            degrade(gt, next(numbers))

    return Arm(name, work, items=items)


def ours(args: argparse.Namespace) -> Callable[[Any, int], Any]:
    from sr.train.builder import Builder, load

    degradation = Builder(load(RECIPE)).degradation(args.crop)
    return lambda gt, number: degradation(gt, range(number * len(gt), (number + 1) * len(gt)))


def feed(args: argparse.Namespace) -> Callable[[Any, int], Any]:
    """Return basicsr's `feed_data` as a function of (gt, number). Kernels are precomputed, as by its loader workers."""
    import numpy as np
    import torch

    from sr.nets.io.basicsr import basicsr

    module, plain = basicsr("models.realesrgan_model"), basicsr("utils.img_process_util").filter2D
    module.filter2D = lambda image, kernel: plain(image.contiguous(), kernel)
    model = object.__new__(module.RealESRGANModel)
    model.device, model.is_train = args.device, True
    model.opt = FEED | {"scale": 4, "gt_size": args.crop, "high_order_degradation": True}
    model.jpeger = basicsr("utils.diffjpeg").DiffJPEG(differentiable=False).to(args.device)
    model.usm_sharpener = basicsr("utils.img_process_util").USMSharp().to(args.device)
    model._dequeue_and_enqueue = lambda: None
    synthesis = reference_kernels()
    kernels = [torch.stack([torch.stack(next(synthesis)) for _ in range(args.batch)], 1) for _ in range(16)]

    def degrade(gt: Any, number: int) -> Any:
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        first, second, sinc = kernels[number % len(kernels)]
        model.feed_data({"gt": gt, "kernel1": first, "kernel2": second, "sinc_kernel": sinc})
        return model.lq

    return degrade


def reference_kernels() -> Iterator[list[Any]]:
    """Yield the three kernels of a sample as in Real-ESRGAN's dataset, with the functions of basicsr."""
    import numpy as np
    import torch

    from sr.nets.io.basicsr import basicsr

    module = basicsr("data.degradations")
    sizes, pi = range(7, 22, 2), np.pi
    while True:
        made = []
        for sigma in ([0.2, 3.0], [0.2, 1.5]):
            size = random.choice(sizes)
            if np.random.uniform() < 0.1:
                kernel = module.circular_lowpass_kernel(np.random.uniform(pi / (3 if size < 13 else 5), pi), size)
            else:
                kernel = module.random_mixed_kernels(KINDS, SHARES, size, sigma, sigma, [-pi, pi], [0.5, 4], [1, 2])
            made.append(np.pad(kernel, (21 - size) // 2))
        pulse = np.zeros((21, 21))
        pulse[10, 10] = 1
        ringing = np.random.uniform() < 0.8
        cutoff, size = np.random.uniform(pi / 3, pi), random.choice(sizes)
        made.append(module.circular_lowpass_kernel(cutoff, size, pad_to=21) if ringing else pulse)
        yield [torch.from_numpy(kernel).float() for kernel in made]


def _kernels(args: argparse.Namespace) -> list[Arm]:
    from sr.degrade.blur import Blur, Sinc
    from sr.degrade.draws import draws
    from sr.degrade.kernels import synthesize

    theirs, numbers, batches = reference_kernels(), count(), 10
    stages = Blur(), Blur(sigma=(0.2, 1.5)), Sinc()

    def reference() -> None:
        for _ in range(batches * args.kernels):
            next(theirs)

    def batched() -> None:
        for _ in range(batches):
            positions = range(args.kernels * (number := next(numbers)), args.kernels * (number + 1))
            drawn = draws(0, 0, positions, lq_size=(100, 100), device=args.device)
            for stage in stages:
                synthesize([stage.shape(draw) for draw in drawn], 21).float()

    items = batches * args.kernels
    return [
        Arm("basicsr (numpy)", reference, items=items, unit="samples"),
        Arm(f"ours, batch {args.kernels}, with its draws", batched, items=items, unit="samples"),
    ]
