"""Models by name: the list, downloads into the cache, the Hugging Face Hub, and the default model."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

import sr
from sr.cli import main
from sr.core.digest import sha256_of
from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.inference import zoo
from sr.inference.zoo.catalog import CATALOG, Published
from sr.nets.io.state_dicts import save_safetensors
from sr.train.builder import Builder, load
from tests.helpers import models

pytest_plugins = ["tests.helpers.shard_server"]
SIZE = 3 << 20  # more than two chunks of a transfer


@pytest.fixture
def published(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A model of 3 MB on a local server, as the only one in the catalog."""
    monkeypatch.setenv("SR_HOME", str(tmp_path / "home"))
    file = server.folder / "tiny.pth"
    file.write_bytes(np.random.default_rng(0).bytes(SIZE))
    made = Published("Tiny_x2", 2, "MIT", SIZE, sha256_of(file), f"{server.url}/tiny.pth", "a test")
    monkeypatch.setattr(zoo, "CATALOG", (made,))
    return made


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home" / "models").iterdir())


def test_the_catalog() -> None:
    assert len({model.name.lower() for model in CATALOG}) == len(CATALOG)
    for model in CATALOG:
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}|", model.sha256)
        assert model.url.startswith("https://")
        assert zoo.find(model.name.upper()) is zoo.find(Path(model.file).stem) is model


def test_a_model_is_downloaded_once(
    published: Published, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_x2").mkdir()  # a folder of the same name is no model
    monkeypatch.chdir(tmp_path)
    path = zoo.locate("tiny_x2")
    assert path == tmp_path / "home" / "models" / "tiny.pth"
    assert path.read_bytes() == (server.folder / "tiny.pth").read_bytes()
    server.down = True
    assert zoo.locate("Tiny_x2") == path
    assert server.log == [("tiny.pth", "")]
    assert kept(tmp_path) == ["tiny.pth"]


def test_a_cut_connection_resumes(
    published: Published, server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within one call, and in the next call, of another process, after the tries were used up."""
    server.faults["tiny.pth"] = ["drop"]
    monkeypatch.setattr(zoo, "TRIES", 1)
    with pytest.raises(UserError, match=r"received \d+ of 3145728 bytes"):
        zoo.locate("Tiny_x2")
    assert kept(tmp_path) == ["tiny.pth.part"]
    monkeypatch.setattr(zoo, "TRIES", 2)
    server.faults["tiny.pth"] = ["drop"]
    assert sha256_of(zoo.locate("Tiny_x2")) == published.sha256
    assert [given for _, given in server.log] == ["", "bytes=1572864-", "bytes=2359296-"]


def test_a_damaged_part_is_downloaded_again(published: Published, server, tmp_path: Path) -> None:
    part = tmp_path / "home" / "models" / "tiny.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert sha256_of(zoo.locate("Tiny_x2")) == published.sha256


def test_a_wrong_checksum_is_refused(published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "CATALOG", (replace(published, sha256="0" * 64),))
    with pytest.raises(UserError, match="the SHA-256 differs from the list of models") as error:
        zoo.locate("Tiny_x2")
    assert f"download {published.url} in another way and save it as tiny.pth in {tmp_path}" in str(error.value)
    assert kept(tmp_path) == []
    placed = tmp_path / "home" / "models" / "tiny.pth"  # by hand, as the message advises
    placed.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"is not the published Tiny_x2: its SHA-256 is [0-9a-f]{64}, not 000.*remove"):
        zoo.locate("Tiny_x2")


def test_without_a_server_the_message_names_url_and_folder(published: Published, server, tmp_path: Path) -> None:
    server.down = True
    with pytest.raises(UserError, match="Tiny_x2 cannot be downloaded") as error:
        zoo.locate("Tiny_x2")
    for part in (published.url, "tiny.pth in", str(tmp_path / "home" / "models")):
        assert part in str(error.value)
    assert kept(tmp_path) == []


def test_without_a_published_checksum_the_file_is_called_unverified(
    published: Published, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(zoo, "CATALOG", (replace(published, sha256=published.sha256[:8], size=None),))
    zoo.locate("Tiny_x2")
    assert (
        f"Tiny_x2 is unverified: no checksum is published; its SHA-256 is {published.sha256}" in capsys.readouterr().err
    )
    monkeypatch.setattr(zoo, "CATALOG", (replace(published, sha256="00000000"),))
    with pytest.raises(UserError, match="is not the published"):
        zoo.locate("Tiny_x2")


def test_a_download_by_another_process_is_awaited(
    published: Published, server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = zoo.file_of(published)

    def sleep(seconds: float) -> None:
        """In place of waiting: the other process finishes."""
        shutil.copy(server.folder / "tiny.pth", path)
        other.release()

    monkeypatch.setattr("sr.core.lock.time.sleep", sleep)
    with Lock(path.with_name(f".{path.name}.lock"), used="", fix="") as other:
        assert zoo.locate("Tiny_x2") == path
    assert server.log == []
    assert "sr: waiting: Tiny_x2 is being downloaded by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RealESRGAN_x4pluss", "there is no file and no model 'RealESRGAN_x4pluss'. Did you mean 'RealESRGAN_x4plus'?"),
        ("net_g", "there is no file and no model 'net_g'; run `sr models`"),
        ("RealESRGAN_x4plus.pth", "no such file; give its path, or -m RealESRGAN_x4plus to download"),
        ("hf:user", "write hf:user/repo or hf:user/repo/file"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        zoo.locate(name)


def test_files_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"u/one": ["README.md", "a.safetensors", "a.pth"], "u/two": ["a.pth", "b.pth"], "u/none": ["a.onnx"]}
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: files[repo])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: f"/cache/{repo}/{file}")
    assert zoo.locate("hf:u/one") == Path("/cache/u/one/a.safetensors")
    assert zoo.locate("hf:u/two/sub/b.pth") == Path("/cache/u/two/sub/b.pth")
    for name, message in (
        ("hf:u/two", "has several models, a.pth, b.pth; name one, as hf:u/two/a.pth"),
        ("hf:u/none", "no .safetensors and no .pth"),
        ("hf:u/absent", "hf:u/absent cannot be downloaded"),
    ):
        with pytest.raises(UserError, match=message):
            zoo.locate(name)


def test_the_list(published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Tiny_x2"))
    assert line.split() == ["Tiny_x2", "x2", "3.1", "MB", "-", "MIT", "a", "test"]
    zoo.locate("Tiny_x2")
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["folder"] == str(tmp_path / "home" / "models")
    row = listed["models"][-1]
    assert (row["name"], row["scale"], row["bytes"]) == ("Tiny_x2", 2, SIZE)
    assert row["file"] == str(tmp_path / "home" / "models" / "tiny.pth")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network with random weights in place of the default model."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    models.saved(folder / f"{zoo.DEFAULT}.safetensors", "compact")
    monkeypatch.setattr(zoo, "SHIPPED", folder)
    return folder


def test_without_a_name_the_default_model_is_used(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((12, 8), 50).convert("RGB").save("photo.png")
    assert main(["upscale", "photo.png", "--device", "cpu"]) == 0
    assert Image.open(tmp_path / "upscaled" / "photo.png").size == (48, 32)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"sr: using {zoo.DEFAULT}, the default; choose another model with -m, see `sr models`"
    assert sr.load(device="cpu")(Image.open("photo.png")).size == (48, 32)
    assert main(["models"]) == 0
    assert re.search(rf"^{zoo.DEFAULT} .* default ", capsys.readouterr().out, re.MULTILINE)
    (shipped / f"{zoo.DEFAULT}.safetensors").unlink()
    with pytest.raises(UserError, match="this installation lacks its default model"):
        sr.load()


@pytest.mark.skipif(
    not (zoo.SHIPPED / f"{zoo.DEFAULT}.safetensors").exists(), reason="the default model is not there yet"
)
def test_the_default_model() -> None:
    file = zoo.default_file()
    assert file.stat().st_size <= 3e6
    assert "licen" in file.with_suffix(".md").read_text(encoding="utf-8").lower()
    assert sr.load(device="cpu").scale == 4


def test_names_work_for_other_verbs(
    published: Published, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export stands for translate, validate and report, which find models in the same way; and blend."""
    file = server.folder / "tiny.pth"
    models.saved(file, "compact")
    model = replace(published, sha256=sha256_of(file), size=file.stat().st_size)
    monkeypatch.setattr(zoo, "CATALOG", (model,))
    assert main(["export", "Tiny_x2", "-o", str(tmp_path / "out.pth")]) == 0, capsys.readouterr().err
    Image.effect_noise((12, 8), 50).convert("RGB").save(tmp_path / "photo.png")
    blend = ["--blend", "Tiny_x2:0.5", str(file)]
    assert main(["upscale", str(tmp_path / "photo.png"), "-o", str(tmp_path / "o.png"), *blend]) == 0
    assert Image.open(tmp_path / "o.png").size == (48, 32)


def test_a_run_starts_from_a_name(
    published: Published, server, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe()
    build = Builder(load(file))
    net, other = build.nets.make("generator"), {}
    for key, value in net.state_dict().items():
        other[key] = value + 1
    save_safetensors(server.folder / "tiny.pth", other, {})
    model = replace(published, sha256=sha256_of(server.folder / "tiny.pth"), size=None)
    monkeypatch.setattr(zoo, "CATALOG", (model,))
    Builder(load(file, ["init.generator=Tiny_x2"])).nets.load_initial("generator", net)
    assert all(torch.equal(value, other[key]) for key, value in net.state_dict().items())
