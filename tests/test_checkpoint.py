"""Checkpoints: snapshots as files, crashes at any moment of the writing, damage and what is done about it."""

import errno
import itertools
import os
import shutil
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr.core.errors import UserError
from sr.train import checkpoint, host_snapshot
from tests.helpers.checkpoints import GROUP, flip, manifest, put, taken

# ---- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_safetensors_file_of_every_type(tmp_path: Path) -> None:
    tensors = {str(kind): (torch.randn(3, 5) * 9).to(kind) for kind in host_snapshot.TYPES}
    tensors |= {"none": torch.empty(0, 4), "one": torch.tensor(3), 'quote"d é': torch.rand(1)}
    tensors["last"] = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    tensors["turned"] = torch.randn(5, 2).T
    digest = taken(tensors).write(tmp_path / "t.safetensors")
    assert int(digest, 16) == zlib.crc32((tmp_path / "t.safetensors").read_bytes())
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    for key, value in tensors.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_a_snapshot_is_of_its_moment_and_its_memory_is_used_again() -> None:
    weights = {"w": torch.ones(1000)}
    made = taken(weights)
    where = made.tensors["w"].data_ptr()
    weights["w"].zero_()
    assert made.tensors["w"].sum() == 1000
    made.take(weights)
    assert made.tensors["w"].sum() == 0
    assert made.tensors["w"].data_ptr() == where
    made.take({"w": torch.ones(3), "v": torch.ones(2, dtype=torch.int64)})
    assert {key: value.tolist() for key, value in made.tensors.items()} == {"w": [1, 1, 1], "v": [1, 1]}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_snapshot_from_a_gpu_is_of_its_moment() -> None:
    weights = {str(n): torch.randn(64, 64, 3, 3, device="cuda") for n in range(50)} | {"n": torch.tensor(3)}
    weights["last"] = weights["0"].to(memory_format=torch.channels_last)
    before = {key: value.cpu().clone() for key, value in weights.items()}
    made = taken(weights)
    for value in weights.values():
        value.zero_()
    thread = threading.Thread(target=made.arrive)
    thread.start(), thread.join()
    assert all(torch.equal(made.tensors[key], value) for key, value in before.items())


# ---- crashes ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """killing(n): the process ends before the nth thing that changes the disk, or in the middle of it; None: never."""
    left = itertools.count(-(10**9))

    def arm(moment: int | None) -> None:
        nonlocal left
        left = itertools.count(-(10**9) if moment is None else -moment)

    def before(function: Callable[..., object]) -> Callable[..., object]:
        def ending(path: Path, *rest: object, **more: object) -> object:
            if next(left) == 0:
                if function is rmtree:  # remove half of it
                    next(iter(sorted(path.iterdir())), path / "x").unlink(missing_ok=True)
                if function is write:
                    path.write_bytes(b"half")
                raise Killed
            return function(path, *rest, **more)

        return ending

    rmtree, write = shutil.rmtree, host_snapshot.write
    for module, name in ((shutil, "rmtree"), (host_snapshot, "write"), (os, "rename"), (checkpoint, "_sync")):
        monkeypatch.setattr(module, name, before(getattr(module, name)))
    return arm


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_killed_at_any_moment_the_one_before_is_whole(
    tmp_path: Path, killing: Callable[[int | None], None], again: bool
) -> None:
    for moment in itertools.count():
        root = tmp_path / str(moment)
        put(root, 1), put(root, 2)
        step = 2 if again else 3
        killing(moment)
        try:
            put(root, step, keep=1, value=1.0)
            break
        except Killed:
            killing(None)
        found = checkpoint.load_newest(root)
        assert found is not None
        whole = found.tensors["generator"]["w"] - GROUP["w"]
        assert found.state["step"] in (1, 2, step)
        assert found.state["step"] > 1 or again
        assert whole.unique().tolist() in ([0.0], [1.0])
        put(root, 4, keep=1)
        assert [path.name for path in root.iterdir()] == ["step_00000004"]
    assert moment > 8, "nothing was interrupted"


# ---- damage ----------------------------------------------------------------------------------------------------------


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda f: os.truncate(f / "ema.safetensors", 40), "ema.safetensors has 40 bytes where the manifest"),
    "a bit": (lambda f: flip(f / "generator.safetensors"), "generator.safetensors does not match its checksum"),
    "gone": (lambda f: (f / "ema.safetensors").unlink(), "ema.safetensors is missing"),
    "state": (lambda f: (f / "state.json").write_text('{"step": 9}'), "state.json does not match its checksum"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json cannot be read"),
    "half a manifest": (lambda f: os.truncate(f / "manifest.json", 30), "manifest.json is invalid"),
    "an empty manifest": (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json is invalid"),
    "a list": (lambda f: (f / "manifest.json").write_text("[1]"), "manifest.json is invalid"),
    "other format": (lambda f: manifest(f, lambda m: m.update(format=7)), "has format 7, this version reads format 2"),
    "other step": (lambda f: manifest(f, lambda m: m.update(step=2)), "its manifest is of step 2"),
    "no state": (lambda f: manifest(f, lambda m: m["files"].pop("state.json")), "does not name state.json"),
    "other size": (
        lambda f: manifest(f, lambda m: m["files"]["state.json"].update(bytes=1)),
        "where the manifest has 1",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_reported_and_skipped_on_request(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, sentence = DAMAGE[kind]
    put(tmp_path, 1), put(tmp_path, 2)
    folder = put(tmp_path, 3, value=3.0)
    harm(folder)
    with pytest.raises(UserError, match=rf"step_00000003: damaged, .*{sentence}.*set save.fallback: true"):
        checkpoint.load_newest(tmp_path)
    assert checkpoint.steps(tmp_path) == [1, 2, 3]
    flip(tmp_path / "step_00000002" / "ema.safetensors")
    found = checkpoint.load_newest(tmp_path, fallback=True)
    assert found is not None
    assert found.state["step"] == 1
    said = capsys.readouterr().out
    assert [f"step_0000000{step}: damaged" in said for step in (1, 2, 3)] == [False, True, True]
    put(tmp_path, 2, keep=1)  # what was skipped does not count among those kept
    assert checkpoint.steps(tmp_path) == [2]
    assert (tmp_path / "damaged_step_00000003").is_dir()


def test_without_a_valid_checkpoint_the_run_does_not_restart(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nothing", fallback=True) is None
    flip(put(tmp_path, 1) / "ema.safetensors")
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        checkpoint.load_newest(tmp_path, fallback=True)


# ---- past the cache --------------------------------------------------------------------------------------------------

LARGE = {f"w{n}": torch.randn(n, 1001, generator=torch.Generator().manual_seed(n)) for n in (1, 30, 700)}


def no_direct(monkeypatch: pytest.MonkeyPatch, fault: Callable[[int], int]) -> list[int]:
    """Disks on which writing past the cache ends in `fault`, given the bytes of a write; notes the writes."""
    seen: list[int] = []
    monkeypatch.setattr(host_snapshot.os, "write", lambda file, part: seen.append(len(part)) or fault(len(part)))
    return seen


def refused(length: int) -> int:
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("fault", [None, refused, lambda length: length // 2], ids=["none", "refused", "cut short"])
def test_a_file_is_the_same_past_the_cache_and_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int], int] | None
) -> None:
    seen = no_direct(monkeypatch, fault) if fault else None
    file, made = tmp_path / "x.safetensors", taken(LARGE)
    file.write_bytes(b"an older file, and a longer one" * 10**6)
    digest = made.write(file)
    content = file.read_bytes()
    assert digest == f"{zlib.crc32(content):08x}"
    assert all(torch.equal(value, LARGE[name]) for name, value in load_file(file).items())
    assert len(content) == made._bytes
    assert len(content) % host_snapshot.PAGE, "what is behind the last page would not show"
    assert seen is None or seen or not hasattr(os, "O_DIRECT")


def test_a_full_disk_is_reported_for_direct_writes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(length: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    if not hasattr(os, "O_DIRECT"):
        pytest.skip("no such thing here")
    no_direct(monkeypatch, full)
    with pytest.raises(OSError, match="No space left"):
        taken(LARGE).write(tmp_path / "x.safetensors")


def test_a_repeated_snapshot_reuses_its_memory(tmp_path: Path) -> None:
    made = taken(LARGE)
    place = made._buffer.data_ptr()
    assert place % host_snapshot.PAGE == len(made._buffer) % host_snapshot.PAGE == 0
    made.take({name: value + 1 for name, value in LARGE.items()})
    made.write(tmp_path / "x.safetensors")
    assert made._buffer.data_ptr() == place
    assert torch.equal(load_file(tmp_path / "x.safetensors")["w30"], LARGE["w30"] + 1)
