"""`sr report`: one page that opens from disk, is correct, and executes nothing from names or files."""

import base64
import html.parser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch
from PIL import Image

from sr.cli import main
from sr.evaluate.metrics.psnr import psnr
from sr.images.bicubic import resize
from sr.report import make
from sr.report.page import Card, page
from tests.helpers.browser import CHROMIUM, Page, browser
from tests.helpers.models import saved
from tests.helpers.program import ROOT

ODD = ["plain", "with 'quotes' and \"more\"", "<script>alert(1)<", "Ω ü 50% #2 & so"]


class Read(html.parser.HTMLParser):
    """What a browser would make of it: the tree must close, and what is asked for is listed."""

    VOID = frozenset({"meta", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def pixels(reference: str, beside: Path) -> np.ndarray:
    """Of what an <img> asks for."""
    if reference.startswith("data:"):
        data = base64.b64decode(reference.partition(",")[2])
        place = beside / "embedded.png"
        place.write_bytes(data)
    else:
        assert urlparse(reference).scheme == ""
        place = beside / unquote(reference)
    with Image.open(place) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """hr; lr a quarter of it; ours: hr with noise that grows from name to name, so the last loses most."""
    made = {name: tmp_path / name for name in ("hr", "lr", "ours")}
    for folder in made.values():
        folder.mkdir()
    for number, name in enumerate(ODD):
        draws = np.random.default_rng(number)
        high = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            (64, 48), Image.Resampling.BICUBIC
        )
        high.save(made["hr"] / f"{name}.png")
        high.resize((16, 12), Image.Resampling.BICUBIC).save(made["lr"] / f"{name}.png")
        noisy = np.asarray(high).astype(int) + draws.integers(-1 - 15 * number, 2 + 15 * number, (48, 64, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(made["ours"] / f"{name}_x4.png")
    return made


def report(folders: dict[str, Path], output: Path, *args: str) -> int:
    given = [str(folders["ours"]), "--lr", str(folders["lr"]), "--hr", str(folders["hr"])]
    return main(["report", *given, "-o", str(output), "--metrics", "psnr_y", "l1", *args])


@pytest.mark.parametrize("embed", ["20", "0"])
def test_the_page_shows_each_layer_of_each_image_worst_first(tmp_path, folders, capsys, embed):
    output = tmp_path / "out" / "my page #1 50%.html"
    assert report(folders, output, "--embed", embed) == 0
    assert "4 image(s) in " in capsys.readouterr().out
    beside = [] if embed == "20" else ["my page #1 50%_files"]
    assert sorted(os.listdir(output.parent)) == sorted([output.name, *beside])
    found = Read(output.read_text(encoding="utf-8"))
    assert found.text("h2") == ODD[::-1]
    assert found.text("title") == ["my page #1 50%: bicubic, ours and ground truth"]
    assert found.text("h1") == ["Comparison of bicubic, ours and ground truth"]
    for number, name in enumerate(reversed(ODD)):
        layers = [pixels(str(a["src"]), output.parent) for a in found.all("img")[3 * number : 3 * number + 3]]
        assert [a["alt"] for a in found.all("img")[3 * number :][:3]] == [
            f"{name}: {layer}" for layer in ("bicubic", "ours", "ground truth")
        ]
        low = torch.from_numpy(np.asarray(Image.open(folders["lr"] / f"{name}.png")) / 255).permute(2, 0, 1).float()
        enlarged = (resize(low, scale=4).clamp(0, 1) * 255).round().permute(1, 2, 0).byte().numpy()
        assert np.abs(layers[0].astype(int) - enlarged).max() <= 1
        for layer, file in ((1, folders["ours"] / f"{name}_x4.png"), (2, folders["hr"] / f"{name}.png")):
            assert np.array_equal(layers[layer], np.asarray(Image.open(file)))
        ours, truth = (torch.from_numpy(x / 255).permute(2, 0, 1).float() for x in layers[1:])
        scores = json.loads(str(found.all("article")[number]["data-scores"]))
        assert scores[1]["psnr_y"] == pytest.approx(psnr(ours, truth, border=4))
        assert scores[2] == {}


def test_names_bring_no_markup_and_nothing_is_asked_from_anywhere(tmp_path, folders):
    folders["ours"].rename(tmp_path / "<b onclick=x>&'\"")
    folders["ours"] = tmp_path / "<b onclick=x>&'\""
    output = tmp_path / "<img src=x>.html"
    assert report(folders, output) == 0
    text = output.read_text(encoding="utf-8")
    found = Read(text)
    assert {tag for tag, _ in found.tags} == {
        *("html", "head", "meta", "title", "style", "noscript", "body", "header", "h1", "p", "div", "table", "caption"),
        *("tr", "th", "td", "span", "label", "select", "option", "input", "button", "main", "article", "h2", "img"),
        "script",
    }
    assert len(found.all("script")) == 1
    assert len(found.all("img")) == 12
    assert all(not name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "<b onclick=x>&'\"" in found.text("option")
    assert not re.search(
        r"https?:|//\w", re.sub(r"data:[^\"]*", "", text).replace("<!doctype html>", "").replace("// ", "")
    )
    policy = str(next(a for a in found.all("meta") if "http-equiv" in a)["content"])
    assert policy.startswith("default-src 'none'; img-src 'self' data: file:;")
    assert "unsafe" not in policy.partition("script-src")[2]


def test_two_folders_alone_are_compared_by_name(tmp_path, folders, capsys):
    output = tmp_path / "page.html"
    shutil.copytree(folders["ours"], tmp_path / "other")
    assert main(["report", str(folders["ours"]), str(tmp_path / "other"), "-o", str(output)]) == 0
    found = Read(output.read_text(encoding="utf-8"))
    assert found.text("h2") == sorted(ODD, key=lambda name: f"{name}_x4.png")
    assert found.all("table") == []
    assert found.text("option")[:2] == ["ours", "other"]


def test_models_are_run_and_lr_is_made_where_only_the_truth_is_given(tmp_path, folders):
    saved(tmp_path / "m.safetensors", scale=4)
    saved(tmp_path / "other.safetensors", scale=4, num_block=2)
    args = ["--model", str(tmp_path / "m.safetensors"), "--model", str(tmp_path / "other.safetensors")]
    args += ["--hr", str(folders["hr"]), "--device", "cpu", "--metrics", "psnr_y"]
    assert main(["report", *args, "-o", str(tmp_path / "page.html")]) == 0
    found = Read((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.text("option")[:4] == ["bicubic", "m", "other", "ground truth"]
    scores = [json.loads(str(a["data-scores"])) for a in found.all("article")]
    assert all(bicubic["psnr_y"] > ours["psnr_y"] != other["psnr_y"] for bicubic, ours, other, _ in scores)


def test_a_folder_with_ground_truth_only(tmp_path, folders, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    args = [str(folders["ours"]), "--hr", str(folders["hr"]), "-o", str(tmp_path / "page.html")]
    assert main(["report", *args]) == 0
    assert "lpips is omitted: AlexNet's weights are not on this disk" in capsys.readouterr().err
    found = Read((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.text("option")[:2] == ["ours", "ground truth"]
    assert found.text("p")[0] == "4 images: ours, ground truth."
    assert found.text("th")[:4] == ["Layer", "psnr_y", "ssim_y", "ours"]


def test_what_cannot_be_shown_is_listed_and_the_rest_continues(tmp_path, folders, capsys):
    (folders["ours"] / f"{ODD[0]}_x4.png").write_bytes(b"no image")
    (folders["ours"] / f"{ODD[1]}_x4.png").unlink()
    Image.new("RGB", (65, 48)).save(folders["ours"] / f"{ODD[3]}_x4.png")
    assert report(folders, tmp_path / "page.html") == 1
    told = capsys.readouterr()
    assert "1 image(s) in" in told.out
    assert "3 image(s) left out:" in told.err
    assert "plain: not an image in a known format" in told.err
    assert "has no image of this name" in told.err
    assert "ours is 65x48, ground truth is 64x48" in told.err
    assert Read((tmp_path / "page.html").read_text(encoding="utf-8")).text("h2") == [ODD[2]]


def test_formats_that_browsers_do_not_show_become_png_and_a_truth_is_cut(tmp_path, folders):
    for path in list(folders["ours"].iterdir()):
        Image.open(path).crop((0, 0, 60, 48)).save(path.with_suffix(".tif"))
        path.unlink()
        Image.open(folders["lr"] / path.name.replace("_x4", "")).crop((0, 0, 15, 12)).save(
            folders["lr"] / path.name.replace("_x4", "")
        )
    assert report(folders, tmp_path / "page.html", "--embed", "0") == 0
    files = sorted((tmp_path / "page_files").iterdir())
    assert {path.suffix for path in files} == {".png"}
    assert {Image.open(path).size for path in files} == {(60, 48)}


def test_a_report_replaces_its_own_folder_and_no_other(tmp_path, folders, capsys):
    for _ in range(2):
        assert report(folders, tmp_path / "page.html", "--embed", "0") == 0
    assert len(os.listdir(tmp_path / "page_files")) == 12
    (tmp_path / "page_files" / "thesis.txt").touch()
    before = (tmp_path / "page.html").read_bytes()
    assert report(folders, tmp_path / "page.html", "--embed", "0") == 2
    assert "is not the folder of a report" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_bytes() == before
    assert (tmp_path / "page_files" / "thesis.txt").exists()
    assert {name for name in os.listdir(tmp_path) if name.startswith(".")} == set()


def test_a_full_disk_leaves_the_old_page(tmp_path, folders, monkeypatch):
    assert report(folders, tmp_path / "page.html") == 0
    before = (tmp_path / "page.html").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make, "page", full)
    assert report(folders, tmp_path / "page.html") == 2
    assert (tmp_path / "page.html").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["hr", "lr", "ours", "page.html"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ours", "-o", "page.htm.png"], "a page ends in .html"),
        (["ours", "-o", "page.html"], "one folder alone shows no difference"),
        (["nowhere", "-o", "page.html"], "nowhere: there is no such folder"),
        (["empty", "--hr", "hr", "-o", "page.html"], "empty: no images in it"),
        (["ours", "--hr", "hr", "--metrics", "psnr", "-o", "page.html"], "no metric 'psnr'"),
        (["ours", "lr", "-o", "page.html"], "none of 4 images can be shown"),
        (["-o", "page.html"], "nothing to show; give a folder of upscaled images"),
        (["ours", "--model", "bicubic", "--scale", "4", "-o", "page.html"], "--model needs images to start from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_errors_are_one_sentence(tmp_path, folders, capsys, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["report", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_an_infinite_psnr_is_reported_as_equal():
    card = Card(
        "same", 8, 8, [Path("1.png"), Path("2.png"), Path("3.png")], [{"psnr_y": 30.0}, {"psnr_y": float("inf")}]
    )
    found = Read(page("t", ["bicubic", "ours", "ground truth"], ["psnr_y"], [card], lambda path: path.name))
    assert "equal" in found.text("td")
    assert json.loads(str(found.all("article")[0]["data-scores"])) == [{"psnr_y": 30.0}, {"psnr_y": None}, {}]


def test_the_script_and_the_style_are_packaged():
    listed = re.search(r'^"sr.report" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert listed is not None
    packaged = [name.strip(' "') for name in listed[1].split(",")]
    beside = [path.name for path in (ROOT / "sr" / "report").iterdir() if path.suffix not in (".py", "")]
    assert all(any(fnmatch(name, pattern) for pattern in packaged) for name in beside)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_is_javascript():
    subprocess.run(["node", "--check", str(ROOT / "sr" / "report" / "page.js")], check=True)


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path, folders: dict[str, Path]) -> Iterator[Page]:
    assert report(folders, tmp_path / "page.html", "--embed", "0") == 0
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "page.html")
        yield shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; set CHROMIUM to one")
def test_slider_order_loupe_and_theme_in_a_browser(opened):
    value = opened.value
    value("Promise.all([...document.images].filter(i => i.className).map(i => i.decode()))")
    assert all(request.startswith("file:") for request in opened.requests)
    assert value("[...document.querySelectorAll('h2')].map(h => h.textContent)") == ODD[::-1]
    assert (
        value("[...document.querySelectorAll('.stage')].map(s => s.querySelectorAll('.left, .right').length)")
        == [2] * 4
    )

    # slider, by keys and by pointer
    value("document.querySelector('.slide').focus()")
    opened.press("ArrowRight")
    assert value("document.querySelector('.stage').style.getPropertyValue('--at')") == "50.5%"
    assert value("document.querySelector('.slide').getAttribute('aria-valuetext')") == "51% bicubic"
    box = value("(b => [b.left, b.top, b.width, b.height])(document.querySelector('.stage').getBoundingClientRect())")
    opened.mouse("mousePressed", box[0] + box[2] / 4, box[1] + 5, down=True)
    opened.mouse("mouseReleased", box[0] + box[2] / 4, box[1] + 5)
    assert float(value("document.querySelector('.slide').value")) == pytest.approx(25, abs=1)
    left, right = (
        value(f"getComputedStyle(document.querySelector('.stage img.{side}')).clipPath") for side in ("left", "right")
    )
    assert left.startswith("inset")
    assert right == "none"

    # loupe: three panes that show the place under the pointer in their middle
    opened.mouse("mouseMoved", box[0] + box[2] / 2, box[1] + box[3] / 4)
    assert value("document.querySelectorAll('#loupe:not([hidden]) .pane').length") == 3
    pane = value(
        "(p => [p.clientWidth, ...['left', 'width', 'top', 'height'].map(key => parseFloat(p.firstChild.style[key]))])"
        "(document.querySelector('.pane'))"
    )
    assert pane[2] == 64 * 4
    assert (pane[0] / 2 - pane[1]) / pane[2] == pytest.approx(1 / 2, abs=0.02)
    assert (pane[0] / 2 - pane[3]) / pane[4] == pytest.approx(1 / 4, abs=0.02)
    opened.mouse("mouseMoved", 1, 1)
    assert value("document.getElementById('loupe').hidden")
    value("document.querySelector('.stage').focus()")
    opened.press("Tab", shift=True), opened.press("Tab")
    opened.press("ArrowDown", shift=True)
    opened.press("+")
    assert value("document.getElementById('zoom').value") == "8"
    assert not value("document.getElementById('loupe').hidden")
    opened.press("Escape")
    assert value("document.getElementById('loupe').hidden")

    # another order, other layers, the other theme
    value("(s => { s.value = 'name'; s.dispatchEvent(new Event('change')); })(document.getElementById('order'))")
    assert value("[...document.querySelectorAll('h2')].map(h => h.textContent)") == sorted(
        ODD, key=lambda name: f"{name}.png"
    )
    value("(s => { s.value = '2'; s.dispatchEvent(new Event('change')); })(document.getElementById('right'))")
    assert value("document.querySelector('.stage img.right').alt").endswith(": ground truth")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = value(ground)
    value("document.getElementById('theme').click()")
    assert value(ground) != before
    assert opened.errors == []
