"""Make and measure the images of a report, and store them with its page."""

import base64
import dataclasses
import math
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from torch import Tensor

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.core.progress import progress
from sr.evaluate.metrics import METRICS
from sr.images import ImageData, ImageError, bicubic, read_image, write_image
from sr.inference.upscale import Upscaler
from sr.nets.io.load import Model
from sr.report.page import Card, page
from sr.report.pairs import Entry, Failed, pair

WEB = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  # formats that browsers show
USUAL = "psnr_y", "ssim_y", "lpips", "dists"
EMBED = 20  # megabytes of images that are embedded in the page, at most
_OURS = re.compile(r"\d{6}_\d+\.(png|jpg|jpeg|webp)")
TRUTH, BICUBIC = "ground truth", "bicubic"


@dataclass(frozen=True)
class Made:
    """The result of `make_report`.

    folder: of the images; None where they are embedded. failed: images that are not on the page, with reasons.
    left_out: metrics that could not be measured, with reasons.
    """

    images: int
    folder: Path | None
    failed: Failed = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


class ReportPlan(NamedTuple):
    """What a page shows of each image.

    models: with their names. scale: of the outputs in the folders, where it is known before they are opened. metrics:
    against the ground truth.
    """

    folders: Sequence[str]
    models: Sequence[tuple[str, Upscaler]]
    has_hr: bool
    has_lr: bool
    scale: int | None
    metrics: Sequence[str]

    @property
    def makes_lr(self) -> bool:
        return self.has_hr and not self.has_lr and self.scale is not None

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order of the page."""
        ours = [*_short(self.folders), *(name for name, _ in self.models)]
        first = [BICUBIC] if self.has_lr or self.makes_lr else []
        return _distinct([*first, *ours, *([TRUTH] if self.has_hr else [])])


def make_report(
    folders: Sequence[str],
    output: Path,
    *,
    models: Sequence[tuple[str, Model]] = (),
    hr: str | None = None,
    lr: str | None = None,
    scale: int | None = None,
    metrics: Sequence[str] | None = None,
    embed: float = EMBED,
    **how: Any,
) -> Made:
    """Write a page that compares the outputs in `folders` and the outputs of `models`.

    An image that cannot be shown is listed, and the page shows the others. Page and folder are written atomically.

    Args:
        folders: outputs of one set of images, one folder for each method.
        output: the page, .html.
        models: with the names that the page shows.
        hr: ground truth, which all layers are measured against.
        lr: LR images; bicubic of them is the first layer. None: made from `hr`, if the scale is known.
        scale: of the outputs; None: that of the models, or from the sizes of `lr`.
        metrics: the first one orders the page.
        embed: megabytes of images that are embedded in the page; more are stored in the folder `<stem>_files`.
        how: see `Predictor`.

    Raises:
        UserError: there is nothing to compare, or no image can be shown.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{output}: a page ends in .html; give -o report.html")
    if not folders and not models:
        raise UserError("nothing to show; give a folder of upscaled images, or --model")
    if models and not (lr or hr):
        raise UserError("--model needs images to start from; give --lr or --hr")
    entries, failed = pair(folders, hr=hr, lr=lr)
    upscalers = [(name, Upscaler(model, **how)) for name, model in models]
    factors = {model.scale for _, model in models} | ({scale} if scale else set())
    if len(factors) > 1:
        raise UserError(f"the models are of {', '.join(f'x{n}' for n in sorted(factors))}; give models of one scale")
    left_out = {name: why for name in metrics or USUAL if hr and (why := METRICS[name].missing())}
    chosen = [name for name in metrics or USUAL if name not in left_out] if hr else []
    plan = ReportPlan(folders, upscalers, hr is not None, lr is not None, next(iter(factors), None), chosen)
    if len(plan.layers) < 2:
        raise UserError("one folder alone shows no difference; add --lr, --hr with --scale, or another folder")
    temporary = _folder_of(output).with_name(f".{_folder_of(output).name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        cards = _cards(entries, plan, temporary, failed)
        if not cards:
            raise UserError(
                f"none of {len(failed)} images can be shown; correct the first, {failed[0][0]}: {failed[0][1]}"
            )
        return Made(len(cards), _publish(output, plan, cards, temporary, embed), failed, left_out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# ---- images --------------------------------------------------------------------------------------------------------


def _cards(entries: Sequence[Entry], plan: ReportPlan, folder: Path, failed: Failed) -> list[Card]:
    cards = []
    for number, entry in enumerate(progress(entries, unit="image", desc="report")):
        try:
            cards.append(_card(entry, plan, folder, number))
        except (UserError, ValueError) as error:  # one image must not cost the others
            failed.append((entry.name, error.reason if isinstance(error, ImageError) else str(error)))
            for left in folder.glob(f"{number:06d}_*"):
                left.unlink()
    return cards


def _card(entry: Entry, plan: ReportPlan, folder: Path, number: int) -> Card:
    truth = read_image(entry.hr) if entry.hr else None
    low = read_image(entry.lr) if entry.lr else _made_lr(truth, plan)
    shown: list[tuple[ImageData, Path | None]] = [(read_image(path), path) for path in entry.outputs]
    shown += [(upscaler([low])[0], None) for _, upscaler in plan.models if low is not None]
    height, width = shown[0][0].rgb.shape[-2:] if shown else _of_scale(low, plan)
    if low is not None:
        resized = dataclasses.replace(low, rgb=_bicubic(low.rgb, height, width), alpha=None)
        shown.insert(0, (resized, None))
    border = max(round(height / low.rgb.shape[-2]), 1) if low is not None else plan.scale or 0
    if truth is not None:
        cut = _cut(truth, height, width)
        shown.append((cut, entry.hr if cut is truth else None))
    sizes = [f"{name} is {p.rgb.shape[-1]}x{p.rgb.shape[-2]}" for name, (p, _) in zip(plan.layers, shown, strict=True)]
    if len({p.rgb.shape for p, _ in shown}) > 1:
        raise UserError(f"{', '.join(sizes)}; give images of one size")
    scores = [_scores(p, shown[-1][0], plan.metrics, border) if plan.has_hr else {} for p, _ in shown]
    files = [_file(folder / f"{number:06d}_{layer}", p, path) for layer, (p, path) in enumerate(shown)]
    return Card(entry.name, width, height, files, scores[:-1] if plan.has_hr else scores)


def _made_lr(truth: ImageData | None, plan: ReportPlan) -> ImageData | None:
    """The LR image by MATLAB's bicubic, in 8 bit."""
    if truth is None or plan.scale is None:
        return None
    height, width = (side // plan.scale for side in truth.rgb.shape[-2:])
    if min(height, width) < 1:
        raise UserError(f"is smaller than {plan.scale} pixels, one pixel of its LR image; give a larger image")
    rgb = bicubic.resize(truth.rgb[:, : height * plan.scale, : width * plan.scale], size=(height, width))
    return dataclasses.replace(truth, rgb=(rgb.clamp(0, 1) * 255).round() / 255, alpha=None)


def _of_scale(low: ImageData | None, plan: ReportPlan) -> tuple[int, int]:
    """The size of the outputs where the page has only bicubic and the ground truth."""
    if low is None or plan.scale is None:
        raise UserError("the size of its output is unknown; give --scale")
    return low.rgb.shape[-2] * plan.scale, low.rgb.shape[-1] * plan.scale


def _bicubic(rgb: Tensor, height: int, width: int) -> Tensor:
    if height < rgb.shape[-2] or width < rgb.shape[-1]:
        raise UserError(f"its output is {width}x{height}, smaller than its LR image; give another --lr")
    return bicubic.resize(rgb, size=(height, width)).clamp(0, 1)


def _cut(truth: ImageData, height: int, width: int) -> ImageData:
    """Drop the rows and columns that the scale does not divide. Another size is returned unchanged, to be refused."""
    high, wide = truth.rgb.shape[-2:]
    if (high, wide) == (height, width) or not (0 <= high - height < 16 and 0 <= wide - width < 16):
        return truth
    alpha = None if truth.alpha is None else truth.alpha[:, :height, :width]
    return dataclasses.replace(truth, rgb=truth.rgb[:, :height, :width], alpha=alpha)


def _scores(image: ImageData, truth: ImageData, metrics: Sequence[str], border: int) -> dict[str, float]:
    values = {name: METRICS[name].measure(image.rgb, truth.rgb, border=border) for name in metrics}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _file(place: Path, image: ImageData, source: Path | None) -> Path:
    """A copy of the file where browsers show its format, else a PNG."""
    if source is not None and source.suffix.lower() in WEB:
        made = place.with_suffix(source.suffix.lower())
        shutil.copyfile(source, made)
        return made
    made = place.with_suffix(".png")
    write_image(made, image)
    return made


# ---- files -----------------------------------------------------------------------------------------------------------


def _folder_of(output: Path) -> Path:
    return output.with_name(f"{output.stem}_files")


def _publish(output: Path, plan: ReportPlan, cards: list[Card], temporary: Path, embed: float) -> Path | None:
    """Write the images, then the page that shows them. Returns the folder of the images, if they are not embedded."""
    total = sum(path.stat().st_size for card in cards for path in card.files)
    if total <= embed * 1e6:
        content = page(output.stem, plan.layers, plan.metrics, cards, _embedded)
        folder = None
    else:
        folder = _folder_of(output)
        _check_ours(folder)
        content = page(output.stem, plan.layers, plan.metrics, cards, lambda p: f"{quote(folder.name)}/{quote(p.name)}")
        _swap(temporary, folder)
    with replacing(output) as file:
        file.write_text(content, encoding="utf-8")
    return folder


def _embedded(path: Path) -> str:
    return f"data:image/{WEB[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _check_ours(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(_OURS.fullmatch(path.name) for path in folder.iterdir())):
        raise UserError(f"{folder} exists and is not the folder of a report; give the page another name")


def _swap(new: Path, place: Path) -> None:
    """Move `new` to `place`. An older folder there is removed afterwards."""
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


# ---- names -----------------------------------------------------------------------------------------------------------


def _short(folders: Sequence[str]) -> list[str]:
    names = [Path(folder).resolve().name or folder for folder in folders]
    return [name if names.count(name) == 1 else folder for name, folder in zip(names, folders, strict=True)]


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(names)]
