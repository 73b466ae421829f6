"""Any input leads to a result or one sentence: property tests, and some cases of tools/fuzz/fuzz.py."""

import contextlib
import io
import json
import string
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fuzz
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sr.config.base import read
from sr.core.errors import UserError
from sr.data import scan
from sr.data.shards import ShardSource
from sr.images import read_image, read_rgb, size_of
from sr.train import checkpoint
from sr.train.builder import Builder, load
from tests.helpers.checkpoints import GROUP, put
from tests.helpers.program import ROOT

pytestmark = pytest.mark.tools

few = settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
RECIPES = sorted((ROOT / "options").glob("*.yml"))
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["l1", "adam", "1e-4"])
)
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner), max_leaves=9
)


def answered(way: Callable[[], Any]) -> Any:
    """What it gives, or None where it refuses in a sentence; anything else goes through."""
    try:
        return way()
    except UserError as error:
        said = str(error)
    assert said.strip()
    assert "Traceback" not in said
    return None


# ---- options ---------------------------------------------------------------------------------------------------------


@cache
def recipe(file: Path) -> str:
    return yaml.safe_dump(yaml.safe_load(file.read_text()))


def places(tree: Any) -> list[tuple[Any, Any]]:
    here = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    return [(tree, key) for key, _ in here] + [
        place for _, value in here if isinstance(value, dict | list) for place in places(value)
    ]


@settings(few, max_examples=20)
@given(st.sampled_from(RECIPES), st.integers(0), trees)
def test_any_value_in_any_place_of_a_recipe(file: Path, place: int, value: Any) -> None:
    values = yaml.safe_load(recipe(file))
    holder, key = places(values)[place % len(places(values))]
    holder[key] = value
    with TemporaryDirectory() as folder:
        broken = Path(folder, "broken.yml")
        broken.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        options = answered(lambda: load(broken, plugins=False))
        if options is not None:  # what is accepted can be written down and run again
            broken.write_text(Builder(options).resolved(), encoding="utf-8")
            assert load(broken).folder == options.folder


@few
@given(st.binary(max_size=60) | st.text(alphabet="{}[]&*!:,-?|>'\"%#@ \n\tab1~", max_size=60).map(str.encode))
def test_any_bytes_as_options(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, "x.yml").write_bytes(data)
        answered(lambda: read(Path(folder, "x.yml")))


@few
@given(st.text(max_size=30) | st.builds("{}={}".format, st.text("abc.0129", max_size=12), st.text(max_size=12)))
def test_any_override(assignment: str) -> None:
    answered(lambda: load(RECIPES[0], [assignment], plugins=False))


# ---- images --------------------------------------------------------------------------------------------------------


@cache
def image(format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


edits = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=4)


def edited(data: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    for at, new, gone in changes:
        start = at % (len(data) + 1)
        data = data[:start] + new + data[start + gone :]
    return data


@few
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "QOI", "PPM"]), edits)
def test_any_edit_of_an_image(format: str, changes: list[tuple[int, bytes, int]]) -> None:
    data = edited(image(format), changes)
    size, pixels, whole = (answered(lambda way=way: way(data, name="p")) for way in (size_of, read_rgb, read_image))
    if pixels is not None:
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*size, 3)
        assert whole.rgb.shape == (3, *size)


# ---- shards ----------------------------------------------------------------------------------------------------------

names = st.text(string.printable + "äß漢\u202e", min_size=1, max_size=12).filter(lambda name: "\0" not in name)


@few
@given(st.lists(st.tuples(names, st.sampled_from([".png", ".PNG", ".gt.png", ".json", ""])), min_size=1, max_size=6))
def test_every_image_of_a_tar_is_a_sample_or_the_tar_is_refused(members: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        tar = Path(folder, "x.tar")
        with tarfile.open(tar, "w") as archive:
            for name, suffix in members:
                info = tarfile.TarInfo(name + suffix)
                info.size = len(image("PNG"))
                archive.addfile(info, io.BytesIO(image("PNG")))
        source = answered(lambda: ShardSource(path=str(tar)))
        with tarfile.open(tar) as archive:  # names as they came out: a slash at the end, say, is lost
            stored = [scan.MEMBER.fullmatch(name) for name in archive.getnames()]
        images = [found for found in stored if found and found[2].lower() in ("png", "gt.png", "hr.png")]
        if source is not None:
            assert source.counts == [len(images)]
            assert all(source.read(0, n).gt.shape == (12, 17, 3) for n in range(len(images)))
        assert {path.name for path in Path(folder).iterdir()} <= {"x.tar", "x.index.json", "index.json"}


@few
@given(edits)
def test_any_edit_of_a_tar_is_reported_or_changes_pixels_only(changes: list[tuple[int, bytes, int]]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(image("PNG"))
            archive.addfile(info, io.BytesIO(image("PNG")))
    with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        tar = Path(folder, "x.tar")
        tar.write_bytes(edited(file.getvalue(), changes))
        source = answered(lambda: ShardSource(path=str(tar)))
        if source is not None:
            assert source.counts == [4] or "cut short" in said.getvalue()
            for number in range(source.counts[0]):
                answered(lambda number=number: source.read(0, number))


@few
@given(st.dictionaries(st.text(max_size=9), trees, max_size=3) | trees, st.booleans())
def test_any_json_as_an_index(content: Any, beside: bool) -> None:
    with TemporaryDirectory() as folder:
        tar = Path(folder, "x.tar")
        with tarfile.open(tar, "w") as archive:
            info = tarfile.TarInfo("a.png")
            info.size = len(image("PNG"))
            archive.addfile(info, io.BytesIO(image("PNG")))
        name = "x.index.json" if beside else "index.json"
        Path(folder, name).write_text(json.dumps({"version": 1, "shards": content, "samples": content, "bytes": 10240}))
        source = answered(lambda: ShardSource(path=folder))
        assert source is None or source.counts == [1]


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    folder = put(tmp_path_factory.mktemp("saved"), 1)
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


@few
@given(number=st.integers(0), bit=st.integers(0))
def test_any_bit_of_a_checkpoint_is_noticed(saved: dict[Path, bytes], number: int, bit: int) -> None:
    path = list(saved)[number % len(saved)]
    broken = bytearray(saved[path])
    broken[bit // 8 % len(broken)] ^= 1 << bit % 8
    path.write_bytes(broken)
    try:
        with pytest.raises(UserError, match="step_00000001: damaged"):
            checkpoint.load_newest(path.parents[1])
    finally:
        path.write_bytes(saved[path])
    found = checkpoint.load_newest(path.parents[1])
    assert found is not None
    assert found.tensors["ema"].keys() == GROUP.keys()


# ---- the longer run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in fuzz.KINDS if kind not in fuzz.VERBS])
def test_some_cases_of_the_fuzzer(kind: str, tmp_path: Path) -> None:
    of = fuzz.kind(kind, tmp_path)
    got = [fuzz.case(of, kind, 1, number) for number in range(12)]
    assert not [said for what, said in got if what == "violation"]
    assert "refused" in {what for what, _ in got}
    assert got[:3] == [fuzz.case(of, kind, 1, number) for number in range(3)] or kind == "checkpoints"  # (its tensors)


def test_the_fuzzer_counts_a_violation_and_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(self: ShardSource, shard: int, number: int) -> None:
        raise KeyError("of a reader")

    of = fuzz.kind("tars", tmp_path)
    monkeypatch.setattr(ShardSource, "read", torn)
    got = [fuzz.case(of, "tars", 0, number) for number in range(20)]
    assert any(what == "violation" and "KeyError" in said for what, said in got)
    assert [(what, said) for _, what, said in fuzz.outcomes("tars", 0, [5], limit=0.0)] == [
        ("violation", "hang: more than 0 s")
    ]
