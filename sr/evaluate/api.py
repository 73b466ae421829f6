"""`sr.evaluate`: measure a model, or upscaled images, against ground truth."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sr.core.errors import UserError
from sr.evaluate.score import Images, join, pick, score, score_outputs, shutdown
from sr.evaluate.validate import Results
from sr.inference.device import pick_device
from sr.nets.io.load import Direction

StrPath = str | os.PathLike[str]
Paths = StrPath | Sequence[StrPath]


def evaluate(
    model: StrPath | None = None,
    *,
    hr: Paths = (),
    lr: Paths = (),
    outputs: Paths = (),
    sets: Paths = (),
    a: StrPath | None = None,
    b: StrPath | None = None,
    side_by_side: StrPath | None = None,
    size: int | None = None,
    scale: int | None = None,
    direction: Direction | None = None,
    metrics: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    tile: int = 0,
    overlap: int = 32,
    sheet: StrPath | None = None,
    rows: int = 8,
) -> Results:
    """Measure as `sr validate` does. Processes of one launch share the images; all return the same results.

    Args:
        model: a file or a name, see `sr.load`; "bicubic" with `scale`; None with `outputs`.
        hr: folders of ground truth, one for each set.
        lr: folders of LR images for each of `hr`; by default, MATLAB's bicubic of it.
        outputs: folders of images that are already upscaled, for each of `hr`; needs `scale`.
        sets: folders of published sets, or of one of them such as Set5, in place of `hr`.
        a, b: folders of pairs for translation.
        side_by_side: a folder of images that hold a and b, in place of `a` and `b`.
        size: resize a and b to size x size.
        scale: the scale to expect; required for bicubic and `outputs`.
        direction: "a_to_b" or "b_to_a"; by default as trained.
        metrics: names such as "psnr_y", "ssim_y", "lpips", "niqe"; by default the usual ones of the task.
        device, tile, overlap: see `sr.load`.
        sheet: write a contact sheet of the first `rows` images to this file.

    Returns:
        `means`: set -> metric -> mean. `rows`: the scores of each image.

    Raises:
        sr.core.errors.UserError: the model or an image cannot be read, or the arguments do not go together.

    Example:
        >>> import sr
        >>> results = sr.evaluate("bicubic", scale=2, hr="Set5", metrics=["psnr_y", "ssim_y"])
        >>> sorted(results.means["Set5"])
        ['psnr_y', 'ssim_y']
        >>> worst = min(results.rows, key=lambda row: row.scores["psnr_y"]).name
    """
    folders = {"hr": _many(hr), "lr": _many(lr), "outputs": _many(outputs), "sets": _many(sets)}
    images = Images(**folders, a=_text(a), b=_text(b), side_by_side=_text(side_by_side), size=size)
    images.check()
    if outputs:
        _check_outputs({"model": model, "direction": direction, "size": size, "sheet": sheet}, scale)
    elif model is None:
        raise UserError("nothing to measure; give --model FILE, --model bicubic, or --outputs DIR")
    join()
    if model is None:
        assert scale is not None
        results = replace(score_outputs(images, scale=scale, metrics=metrics), scale=scale)
    else:
        opened, chosen = pick(os.fspath(model), scale=scale, direction=direction)
        place = pick_device(None if device is None else str(device))
        how: dict[str, Any] = {"tile": tile, "overlap": overlap, "device": place, "sheet": _text(sheet), "rows": rows}
        results = replace(score(opened, images, direction=chosen, metrics=metrics, **how), scale=opened.scale)
    shutdown()
    return results


def _check_outputs(given: Mapping[str, object], scale: int | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--outputs are measured without a model; leave out --{name}")
    if scale is None:
        raise UserError("--outputs need their scale: that wide a border is not measured; give it, such as --scale 4")


def _many(paths: Paths) -> list[str]:
    return [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(path) for path in paths]


def _text(path: StrPath | None) -> str | None:
    return None if path is None else os.fspath(path)
