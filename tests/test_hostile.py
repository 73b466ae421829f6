"""Files that mean harm: nothing of them is run, nothing is written outside, and no bound is passed."""

import ast
import contextlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from sr.config import registry
from sr.config.base import read
from sr.config.yaml_source import MAX_BYTES
from sr.core.errors import UserError
from sr.data import scan
from sr.data.shards import ShardSource
from sr.images import ImageError, read_image, read_rgb, size_of
from sr.inference.folders import tars
from sr.nets.io.load import architecture, open_model
from sr.nets.io.size_limit import bounded
from sr.nets.io.state_dicts import load_weights, save_pth, save_safetensors
from sr.nets.rrdbnet import RRDBNet
from sr.train import checkpoint
from sr.train.builder import load
from tests.helpers.checkpoints import manifest, put
from tests.helpers.program import ROOT

Recipe = Callable[..., Path]
SIZES = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2}
SOURCES = sorted((ROOT / "sr").rglob("*.py"))


# ---- code ------------------------------------------------------------------------------------------------------------


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func), call) for call in found]


IMPORTS_BY_NAME = {
    "config/registry.py",  # types in options files, unless --no-plugins; the others import from tables
    "core/callable_package.py",
    "__init__.py",
    "nets/spandrel_archs.py",
    "nets/io/basicsr.py",
    "train/optimizers.py",
}


def test_no_code_can_execute_content_of_a_file() -> None:
    seen = []
    for path in SOURCES:
        # folders/work_queue.py communicates only with processes of the same launch, like torch.distributed.
        assert "import pickle" not in path.read_text() or path.name == "work_queue.py", path
        for name, call in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert name not in ("eval", "exec", "compile", "__import__", "os.system"), path
            unpacks = name.rpartition(".")[2] in ("extract", "extractall", "unpack_archive")
            assert not unpacks or path.name == "export_ncnn.py", path  # which is how ncnn calls the output of a network
            assert given.get("shell") != "True" or path.name == "transport.py", f"{path}: a shell"
            if name in ("torch.load", "torch.hub.load_state_dict_from_url") or name.endswith("get_state_dict"):
                seen.append(name)
                assert given.get("weights_only") == "True", f"{path} unpickles"
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", f"{path} unpickles"
            if name.startswith("yaml.") and name.endswith("load"):
                assert name == "yaml.safe_load" or given.get("Loader") == "_Loader", path
            if name.endswith("import_module"):
                assert path.relative_to(ROOT / "sr").as_posix() in IMPORTS_BY_NAME, f"{path} imports by name"
    assert "torch.load" in seen


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm-was-done"),))


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt"])
def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"params": {"a": torch.zeros(1)}, "args": Code()}, tmp_path / name)
    (tmp_path / f"old_{name}").write_bytes(pickle.dumps({"a": Code()}))
    for file in (tmp_path / name, tmp_path / f"old_{name}"):
        with pytest.raises(UserError, match="which is never run"):
            load_weights(file)
    assert not Path("harm-was-done").exists()


def test_a_model_names_rows_of_the_table_only(tmp_path: Path) -> None:
    state = RRDBNet(scale=2, **SIZES).state_dict()
    for kind in ("os.system", "json.loads", "tests.test_hostile.Code", "no such"):
        save_safetensors(tmp_path / "m.safetensors", state, architecture(kind, {"command": "touch harm"}))
        with pytest.raises(UserError, match=r"m\.safetensors(: its weights and the architecture| is no generator)"):
            open_model(tmp_path / "m.safetensors")
    save_safetensors(tmp_path / "m.safetensors", state, architecture("os.system", {"command": "touch harm"}))
    with pytest.raises(UserError, match=r"os\.system, which the file names, is not a network"):
        open_model(tmp_path / "m.safetensors", plugins=["os"])
    assert not (tmp_path / "harm").exists()


def test_no_plugins_shuts_out_types_everywhere(recipe: Recipe) -> None:
    places: list[dict[str, object]] = [
        {"generator": {"type": "json.loads"}},
        {"discriminator": {"type": "json.loads"}},
        {"losses__gan": {"type": "json.loads"}},
        {"losses__gan__regularizers": [{"type": "json.loads"}]},
        {"losses__pixel__weight": {"type": "json.loads"}},
        {"degrade": [{"type": "one_of", "choices": [[{"type": "json.loads"}]]}]},
        {"data__source": {"type": "mix", "sources": [{"type": "json.loads"}], "weights": [1]}},
        {"optimizer__generator": {"type": "json.loads"}},
        {"schedule": {"type": "json.loads"}},
        {"validation": {"sets": {"own": {"source": {"type": "json.loads"}}}}},
    ]
    for change in places:
        with pytest.raises(UserError, match=r"json\.loads' is not part of sr"):
            load(recipe(**change), plugins=False)


def test_a_plugin_that_breaks_or_is_none_is_one_sentence(recipe: Recipe, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torn_plugin.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for kind, said in (
        ("torn_plugin.Loss", "division by zero"),
        ("..", "cannot import"),
        ("builtins.int", "no|not a class or function with a signature"),
        ("os.sep", "not a class or function"),
    ):
        with pytest.raises(UserError, match=said):
            load(recipe(), [f"losses.pixel.type={kind}"])


# ---- sizes -----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(format: str) -> bytes:
    """An image of 60000 x 60000 in a few bytes (WebP: 16383 x 16383, its largest), as far as its header goes."""
    side = 60_000
    if format == "PNG":
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
        )
    if format == "QOI":
        return b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + bytes(16)
    file = io.BytesIO()
    if format == "JPEG":
        Image.new("RGB", (16, 16)).save(file, "JPEG")
        made = file.getvalue()
        at = made.index(b"\xff\xc0") + 5
        return made[:at] + struct.pack(">HH", side, side) + made[at + 4 :]
    Image.new("RGB", (1000, 2)).save(file, "TIFF")
    made = bytearray(file.getvalue())
    for tag in (256, 257):
        at = made.index(struct.pack("<HHI", tag, 4 if struct.pack("<HHI", tag, 4, 1) in made else 3, 1))
        made[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(made)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "QOI"])
def test_a_decompression_bomb_is_refused_by_its_header(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    for way in (read_rgb, read_image, size_of):
        with pytest.raises(ImageError, match=r"60000x60000 pixels are more than the \d+ allowed"):
            way(bomb(format), name="bomb")


def test_webp_cannot_be_larger_than_its_format_and_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 32)).save(file, "WEBP")
    assert read_image(file.getvalue(), max_pixels=64 * 32).rgb.shape == (3, 32, 64)
    with pytest.raises(ImageError, match="64x32 pixels are more than the 2047 allowed"):
        read_image(file.getvalue(), max_pixels=64 * 32 - 1)


def test_an_image_is_never_given_to_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow passes EPS to Ghostscript, for any file name."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(harm) run\n%%EOF\n"
    for way in (read_rgb, read_image, size_of):
        with pytest.raises(ImageError, match="not an image in a known format"):
            way(eps, name="a.png")


def test_a_compressed_archive_is_no_weights(tmp_path: Path) -> None:
    save_pth(tmp_path / "a.pth", {"a": torch.zeros(1 << 20)})
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as whole,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as b,
    ):
        for name in whole.namelist():
            b.writestr(name, whole.read(name))
    assert (tmp_path / "b.pth").stat().st_size < 100_000
    assert load_weights(tmp_path / "a.pth")[0]["a"].numel() == 1 << 20
    with pytest.raises(UserError, match="compressed archive"):
        load_weights(tmp_path / "b.pth")


def test_names_of_layers_cannot_ask_for_a_huge_net(tmp_path: Path) -> None:
    net = RRDBNet(scale=2, **SIZES)
    deep = {key.replace("body.0.", "body.99999999."): value for key, value in net.state_dict().items()}
    save_pth(tmp_path / "deep.pth", net.state_dict() | deep)
    with pytest.raises(UserError, match=r"deep\.pth"):
        open_model(tmp_path / "deep.pth")
    save_safetensors(tmp_path / "deep.safetensors", deep, architecture("rrdbnet", {"scale": 2, "num_block": 10**9}))
    with pytest.raises(UserError, match=r"deep\.safetensors"):
        open_model(tmp_path / "deep.safetensors")
    with bounded(10_000):
        assert len(RRDBNet(scale=4).state_dict()) == 702
    with pytest.raises(ValueError, match="more than 100 layers"), bounded(100):
        RRDBNet(scale=4)


def test_a_safetensors_header_is_bounded(tmp_path: Path) -> None:
    for size in (1 << 62, 1 << 40, 200 << 20):
        (tmp_path / "m.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}" * 100)
        with pytest.raises(UserError, match=r"not a whole \.safetensors file"):
            load_weights(tmp_path / "m.safetensors")


def test_options_are_bounded_in_bytes_depth_and_numbers(tmp_path: Path, recipe: Recipe) -> None:
    file = tmp_path / "x.yml"
    for text, said in (
        ("a: " + "x" * MAX_BYTES, "larger than"),
        ("a: " + "[" * 1050, "depth"),
        ("".join(f"{'  ' * n}a:\n" for n in range(40)), "nested too deep"),
        ("a: .nan", r"x\.yml:1  nan is not a usable number"),
        ("b: 1\na: -.inf", r"x\.yml:2  -inf is not a usable number"),
        (f"a: 1{'0' * 40}", "41 digits is too large"),
        (f"a: 1{'0' * 5000}", "not readable as YAML"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            read(file)
    with pytest.raises(UserError, match="larger than"):
        read("/dev/zero")
    for assignment in ("a=" + "[" * 1050, f"seed=1{'0' * 5000}", "seed=.inf", "losses.pixel={weight: .nan}"):
        with pytest.raises(UserError, match="--set"):
            load(recipe(), [assignment])
    with pytest.raises(UserError, match="write key"):
        load(recipe(), ["a." * 5000 + "b=1"])
    with pytest.raises(UserError, match="name: String should match"):
        load(recipe(), ["name=.."])


def test_numbers_that_no_constructor_takes_are_one_sentence() -> None:
    def box(*, side: int) -> list[int]:
        return [1 // side]

    table = {"x": registry.Table({"box": box})}
    with pytest.raises(UserError, match=r'box cannot be made of {"side": 0} \(integer division or modulo by zero\)'):
        registry.make({"type": "box", "side": 0}, "x", table)
    assert registry.make({"type": "box", "side": 1}, "x", table) == [1]


# ---- places ----------------------------------------------------------------------------------------------------------


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def packed(path: Path, members: list[tuple[str, bytes, bytes]]) -> Path:
    """members: (name, tarfile's type, content)."""
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(content))
    return path


def test_members_of_a_shard_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["../../harm", f"{tmp_path}/harm", "a/../../harm2", "good"]
    members = [(f"{name}.png", tarfile.REGTYPE, png(n)) for n, name in enumerate(names)]
    links = [
        ("link.png", tarfile.SYMTYPE, b""),
        ("hard.png", tarfile.LNKTYPE, b""),
        ("fifo.png", tarfile.FIFOTYPE, b""),
    ]
    source = ShardSource(path=str(packed(tmp_path / "in" / "x.tar", members + links)))
    assert source.counts == [4]
    assert [source.read(0, n).gt[0, 0, 0] for n in range(4)] == [0, 1, 2, 3]
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "x.tar", "x.index.json", "index.json"}


def test_a_hole_in_a_tar_or_an_appended_tar_loses_no_sample_silently(tmp_path: Path, capsys) -> None:
    tar = packed(tmp_path / "x.tar", [(f"{n}.png", tarfile.REGTYPE, png(n)) for n in range(5)])
    whole, third = tar.read_bytes(), int(scan.scan(tar).spans[2, 0, 0]) - 512
    tar.write_bytes(whole[:third] + bytes(1024) + whole[third + 1024 :])
    with pytest.raises(UserError, match=rf"x\.tar is not a whole.*damaged at byte {third}"):
        ShardSource(path=str(tar))
    with pytest.raises(UserError, match=f"damaged at byte {third}"):
        tars.members(tar, (".png",))
    tar.write_bytes(whole + whole)
    with pytest.raises(UserError, match="several tars in one file"):
        ShardSource(path=str(tar))
    tar.write_bytes(whole + bytes(100_000))
    assert ShardSource(path=str(tar)).counts == [5]
    assert not capsys.readouterr().err
    (tmp_path / "index.json").unlink(), (tmp_path / "x.index.json").unlink()
    tar.write_bytes(whole[:third])
    assert ShardSource(path=str(tar)).counts == [2]
    assert "x.tar lacks the zeros at the end of a tar; if it was cut short" in capsys.readouterr().err


@pytest.mark.parametrize("value", [10**30, float("inf"), float("nan"), -1, "x", None, [], {}])
def test_an_index_of_any_numbers_is_a_sentence_or_made_again(tmp_path: Path, value: object) -> None:
    tar = packed(tmp_path / "x.tar", [(f"{n}.png", tarfile.REGTYPE, png(n)) for n in range(3)])
    ShardSource(path=str(tar))
    beside = tmp_path / "x.index.json"
    good = beside.read_text()
    for place in range(1, 5):
        content = json.loads(good)
        content["samples"][1][place] = value
        beside.write_text(json.dumps(content))
        source = ShardSource(path=str(tar))
        for number in (0, 2):
            assert source.read(0, number).gt[0, 0, 0] == number
        with contextlib.suppress(ImageError):
            assert source.read(0, 1).gt[0, 0, 0] == 1
    beside.write_text(good)
    for key in ("samples", "bytes"):
        content = json.loads((tmp_path / "index.json").read_text())
        content["shards"][0][key] = value
        (tmp_path / "index.json").write_text(json.dumps(content))
        if key == "samples":
            with pytest.raises(UserError, match=r"index\.json"):
                ShardSource(path=str(tmp_path)).read(0, 0)
        (tmp_path / "index.json").unlink()
        ShardSource(path=str(tmp_path))


@pytest.mark.parametrize("name", ["../../../../secret.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_a_manifest_names_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path, 1)
    manifest(folder, lambda m: m["files"].update({name: {"bytes": 1, "crc32": ""}}))
    with pytest.raises(UserError, match=r"step_00000001: damaged, its manifest names .* which is not in the folder"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.parametrize(
    "state",
    [{"step": None}, {"step": "1"}, {"step": 10**30}, {"step": True}, {"best": [1]}, {"best": {"x": 1}}, {"bad": -1}],
)
def test_a_state_of_a_run_is_checked(state: dict[str, object]) -> None:
    good = {"step": 1, "consumed": 2, "bad": 0, "best": {"step": 1, "value": 0.5, "metric": "psnr_y"}}
    assert checkpoint.progress(good) == (1, 2, 0, good["best"])
    with pytest.raises(ValueError, match=r"best is|bad are"):
        checkpoint.progress({**good, **state})
    with pytest.raises(ValueError, match="bad are"):
        checkpoint.progress({})
