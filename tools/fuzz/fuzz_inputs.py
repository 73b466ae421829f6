"""The kinds of input that are mutated: the valid files, their mutations, and the conditions that must hold.

A kind is created once per process (`Kind(folder)` writes the valid files) and called for each case with a random
generator. It returns the outcome: "accepted", or the sentence that refused it. Any other exception is a violation.
"""

import contextlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
import numpy as np
import yaml
from PIL import Image

from sr import cli
from sr.core.errors import UserError
from sr.data.make_shards import make_shards
from sr.data.shards import ShardSource
from sr.images import ImageError, read_image, read_pixels, read_rgb, size_of

ACCEPTED = "accepted"
ROOT = Path(__file__).parents[2]


class Violation(Exception):
    """Mutated input led to something else than acceptance or one sentence."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


def photo(number: int, height: int = 40, width: int = 44) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def run(*arguments: object) -> tuple[int, str]:
    """Run a verb in this process; return its exit code and its output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = cli.main([str(argument) for argument in arguments])
    demand(code in (0, 1, 2, 3), f"exit code {code}: {output.getvalue()[-1500:]}")
    return code, output.getvalue()


def sentence(error: UserError, named: str) -> str:
    """Return the message; a violation unless it is a sentence that contains `named`."""
    text = str(error)
    demand("Traceback" not in text and len(text) < 4000, f"no sentence: {text[:300]}")
    demand(named in text, f"does not name {named}: {text[:300]}")
    return text


class Options:
    """Recipes, mutated as text and as values, through `sr check`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "broken.yml"
        self.good = [file.read_text() for file in sorted((ROOT / "options").glob("*.yml"))]

    def __call__(self, rng: random.Random) -> str:
        text = rng.choice(self.good)
        if rng.random() < 0.3:
            self.file.write_bytes(mutate.of_bytes(text.encode(), rng))
        else:
            broken = mutate.of_tree(yaml.safe_load(text), rng, alike=rng.random() < 0.5)
            self.file.write_text(yaml.safe_dump(broken, allow_unicode=True))
        code, output = run("check", self.file, *(["--no-plugins"] if rng.random() < 0.5 else []))
        demand(code in (0, 2), f"exit code {code}")
        demand(code == 0 or "sr: " in output, f"no sentence: {output[:300]}")
        return output.rpartition("sr: ")[2] if code else ACCEPTED


class Images:
    """Images of every supported format: decoded, cut into shards, and upscaled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rgb, alpha = Image.fromarray(photo(0)), Image.fromarray(np.dstack([photo(0), photo(1)[..., 0]]))
        gray = rgb.convert("L")
        deep = Image.fromarray(photo(0)[..., 0].astype(np.uint16) * 257)
        turned = Image.Exif()
        turned[0x0112] = 6
        self.good = {
            "a.png": [encoded(kind, "PNG") for kind in (rgb, alpha, gray, deep, rgb.quantize(16), gray.convert("1"))],
            "a.jpg": [encoded(kind, "JPEG", exif=turned) for kind in (rgb, gray, rgb.convert("CMYK"))],
            "b.jpg": [encoded(rgb, "JPEG", progressive=True), encoded(rgb, "JPEG", icc_profile=b"profile" * 40)],
            "a.webp": [encoded(rgb, "WEBP"), encoded(alpha, "WEBP", lossless=True)],
            "b.webp": [encoded(rgb, "WEBP", save_all=True, append_images=[alpha])],
            "a.tif": [encoded(rgb, "TIFF", compression=how) for how in ("raw", "tiff_deflate", "tiff_lzw", "jpeg")],
            "b.tif": [encoded(kind, "TIFF") for kind in (alpha, gray, deep)],
            "a.bmp": [encoded(rgb, "BMP"), encoded(gray, "BMP")],
        }
        self.whole = encoded(rgb, "PNG")

    def __call__(self, rng: random.Random) -> str:
        name = rng.choice(sorted(self.good))
        data = mutate.of_bytes(rng.choice(self.good[name]), rng)
        given, shards, made = (self.folder / name for name in ("given", "shards", "made"))
        for old in (given, shards, made):
            shutil.rmtree(old, ignore_errors=True)
        given.mkdir()
        file = given / name
        file.write_bytes(data), (given / "whole.png").write_bytes(self.whole)
        outcome = self._read(file)
        report = make_shards(given, shards, size=32, step=32, progress=False)
        left_out = {Path(path).name for path, _ in report.skipped}
        source = ShardSource(path=str(shards))
        places = [(shard, n) for shard, count in enumerate(source.counts) for n in range(count)]
        demand(len(places) == report.samples, f"{report.samples} samples reported, {len(places)} in the shards")
        cut = {source.name(*place).split(": ")[1][7:] for place in places}
        demand(len(left_out) + len({key.rpartition("_s")[0] for key in cut}) == 2, f"an image was lost: {cut}")
        code, output = run("upscale", given, "-o", made, "-m", "bicubic", "--scale", 2)
        images = sorted(path for path in made.rglob("*") if path.is_file() and path.suffix in (".png", file.suffix))
        reported = "1 image(s) failed" in output or "1 image(s) damaged" in output
        demand(len(images) == 2 if code == 0 else reported, f"not reported: {output}")
        for image in images:
            read_image(image)
        demand(not list(self.folder.rglob("*.tmp")), "half-written output")
        return outcome

    @staticmethod
    def _read(file: Path) -> str:
        ways: list[Callable[[], Any]] = [
            lambda: np.zeros((*size_of(file), 3), np.uint8) if np.prod(size_of(file)) < 10**7 else None,
            lambda: read_rgb(file),
            lambda: read_image(file).rgb.permute(1, 2, 0).numpy(),
            lambda: read_pixels(file.read_bytes(), channels=1, name=file.name).repeat(3, 2),
            lambda: read_pixels(file, channels=5)[..., :3],
        ]
        shapes: list[Any] = []
        refused = ""
        for way in ways:
            try:
                shapes.append(getattr(way(), "shape", None))
            except ImageError as error:
                refused = sentence(error, file.name)
                shapes.append(None)
        known = {shape for shape in shapes if shape is not None}
        demand(len(known) <= 1, f"one image has several sizes: {shapes}")
        return ACCEPTED if shapes[1] else refused


class Tars:
    """Tars of several formats, with and without an index, read to the last sample."""

    def __init__(self, folder: Path) -> None:
        self.tar = folder / "x.tar"
        images = [encoded(Image.fromarray(photo(n, 8, 9 + n)), "PNG") for n in range(5)]
        plain = {f"{n}.png": data for n, data in enumerate(images)}
        pairs = {f"{n}.{role}.png": data for n, data in enumerate(images[:3]) for role in ("gt", "lq")}
        long = {f"{'deep/' * 60}ä{n}.png": data for n, data in enumerate(images)}
        mixed = plain | {f"{n}.json": b"{}" for n in range(5)}
        self.good = [
            (self._made(dict(sorted(files.items())), format), count)
            for files, count in ((plain, 5), (pairs, 3), (long, 5), (mixed, 5))
            for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
            if files is not long or format != tarfile.USTAR_FORMAT
        ]

    @staticmethod
    def _made(files: dict[str, bytes], format: int) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=format) as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return file.getvalue()

    def __call__(self, rng: random.Random) -> str:
        data, count = rng.choice(self.good)
        for old in self.tar.parent.glob("*index.json"):
            old.unlink()
        self.tar.write_bytes(data)
        indexed = rng.random() < 0.3
        if indexed:
            ShardSource(path=str(self.tar))
        self.tar.write_bytes((mutate.of_bytes if rng.random() < 0.5 else mutate.of_blocks)(data, rng))
        try:
            _, messages, seen = read_all(self.tar, self.tar.name)
        except UserError as error:
            return sentence(error, self.tar.name)
        # A changed number of samples must be reported.
        demand(seen == count or "cut short" in messages, f"{count} samples became {seen} without a message")
        return messages or ACCEPTED


class Indexes:
    """The index files of intact tars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shards"
        photos = folder / "photos"
        photos.mkdir()
        for number in range(4):
            Image.fromarray(photo(number)).save(photos / f"{number}.png")
        make_shards(photos, self.folder, size=32, step=12, per_shard=5, progress=False)
        self.good = {path: path.read_bytes() for path in self.folder.glob("*index.json")}
        source = ShardSource(path=str(self.folder))
        self.samples = sum(source.counts)
        self.pixels = dict(pixels(source))

    def __call__(self, rng: random.Random) -> str:
        for path, content in self.good.items():
            path.write_bytes(content)
        path = rng.choice(sorted(self.good))
        content = self.good[path]
        if rng.random() < 0.4:
            path.write_bytes(mutate.of_bytes(content, rng))
        elif rng.random() < 0.1:
            path.write_bytes(b"[" * rng.choice((10, 2000, 300_000)))
        else:
            path.write_text(json.dumps(mutate.of_tree(json.loads(content), rng)))
        try:
            source, messages, seen = read_all(self.folder, "tar")
            demand(seen == self.samples, f"{self.samples} samples became {seen} without a message")
        except UserError as error:
            return sentence(error, ".json" if "index.json" in str(error) else "tar")
        if not messages:
            wrong = [at for at, image in pixels(source) if not np.array_equal(image, self.pixels[at])]
            demand(not wrong, f"different images at {wrong}")
        return messages or ACCEPTED


def read_all(path: Path | str, named: str) -> tuple[ShardSource, str, int]:
    """Return (source, messages about unreadable samples and truncated tars, samples that were read or reported)."""
    refused, seen = io.StringIO(), 0
    with contextlib.redirect_stderr(refused):
        source = ShardSource(path=str(path))
        for shard, count in enumerate(source.counts):
            for index in range(count):
                seen += 1
                try:
                    source.read(shard, index)
                except ImageError as error:
                    print(sentence(error, named), file=refused)
    return source, refused.getvalue(), seen


def pixels(source: ShardSource) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    for shard, count in enumerate(source.counts):
        for index in range(count):
            yield (shard, index), source.read(shard, index).gt
