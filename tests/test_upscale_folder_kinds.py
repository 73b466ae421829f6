"""Folders as people have them: links, pipes, long names, lists from other systems, outputs among the inputs."""

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sr.core.atomic import short_name
from sr.core.errors import UserError
from sr.images import ImageData
from sr.inference.folders import pipeline
from sr.inference.folders.convert import ConversionReport, convert
from sr.inference.folders.lists import read_list
from sr.inference.folders.manifest import FOLDER
from sr.inference.folders.plan import plan

pytestmark = pytest.mark.timeout(60)


def draw(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (7, 5), (value, 20, 30)).save(path)
    return path


def same(image: ImageData, on_tiles: Any) -> ImageData:
    return image


def run(inputs: list[Path] | Path, output: Path, work: Any = same, **changes: Any) -> ConversionReport:
    inputs = [inputs] if isinstance(inputs, Path) else inputs
    return convert(inputs, output, work, title="t", settings={"model": 1}, **changes)


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if FOLDER not in Path(name).parts)


def reasons(rows: list[tuple[Path, str]]) -> dict[str, str]:
    return {path.name: reason for path, reason in rows}


# ---- special files ---------------------------------------------------------------------------------------------------


def special_files(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("pipe.png", "pipe.tar", "pipe.mp4"):
        os.mkfifo(folder / name)
    (folder / "linked.png").symlink_to("pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(folder / "door.png"))


@pytest.mark.parametrize("how", ["folder", "names", "list"])
def test_pipes_sockets_and_devices_are_skipped(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    special_files(tmp_path / "in")
    draw(tmp_path / "in" / "a.png")
    inputs = {
        "folder": [tmp_path / "in"],
        "names": sorted((tmp_path / "in").iterdir()),
        "list": [Path(f"list:{tmp_path / 'list.txt'}")],
    }[how]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted((tmp_path / "in").iterdir())))
    report = run(inputs, tmp_path / "out")
    assert [path.name for path in report.written] == ["a.png"]
    assert not report.failed
    kinds = reasons(report.skipped)
    assert set(kinds) == {"pipe.png", "pipe.tar", "pipe.mp4", "linked.png", "zero.png", "door.png"}
    assert "named pipe" in kinds["linked.png"]
    assert "device" in kinds["zero.png"]
    assert "socket" in kinds["door.png"]


def test_a_pipe_alone_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"no images in .*pipe\.png: is a named pipe"):
        run(tmp_path / "pipe.png", tmp_path / "out")


def test_a_file_that_becomes_a_pipe_fails_alone(tmp_path, monkeypatch):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "b.png")
    found = plan([tmp_path / "in"], tmp_path / "out", format=None, suffix="")
    (tmp_path / "in" / "b.png").unlink()
    os.mkfifo(tmp_path / "in" / "b.png")
    monkeypatch.setattr("sr.inference.folders.convert.plan", lambda *args, **kwargs: found)
    report = run(tmp_path / "in", tmp_path / "out")
    assert reasons(report.failed) == {"b.png": "is a named pipe; give a regular file"}
    assert len(report.written) == 1


def test_a_read_that_never_returns_does_not_outlive_sigterm(tmp_path, monkeypatch):
    for name in "abc":
        draw(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(pipeline, "READ_SECONDS", 0.2)
    forever, whole = threading.Event(), Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "b.png":
            os.kill(os.getpid(), signal.SIGTERM)
            forever.wait()
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out")
    assert time.monotonic() - begun < 20
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("read"))
    forever.set()


# ---- links -----------------------------------------------------------------------------------------------------------


def test_links_are_followed_and_loops_end(tmp_path):
    folder, other = tmp_path / "in", tmp_path / "other"
    for path in (folder / "a.png", folder / "sub" / "c.png", other / "d.png"):
        draw(path)
    for link, target in [
        ("b.png", "a.png"),
        ("linked", other),
        ("up", ".."),
        ("sub/self", "."),
        ("sub/again", ".."),
        ("broken.png", "nowhere.png"),
    ]:
        (folder / link).symlink_to(target)
    (other / "back").symlink_to(folder)
    for _ in range(2):
        report = run(folder, folder / "out")
        assert files(folder / "out") == ["a.png", "b.png", "linked/d.png", "sub/c.png"]
        loops = {str(path.relative_to(folder)) for path, reason in report.skipped if "holds it" in reason}
        assert loops == {"up", "sub/self", "sub/again", "linked/back"}
        assert set(reasons(report.failed)) == {"broken.png"}
    assert len(report.kept) == 4


def test_a_linked_folder_is_an_input_and_an_output(tmp_path):
    draw(tmp_path / "photos" / "a.png")
    (tmp_path / "there").mkdir()
    (tmp_path / "in").symlink_to("photos")
    (tmp_path / "photos" / "out").symlink_to(tmp_path / "there")
    assert len(run(tmp_path / "in", tmp_path / "in" / "out").written) == 1
    report = run(tmp_path / "in", tmp_path / "in" / "out")
    assert (len(report.written), len(report.kept)) == (0, 1)
    assert files(tmp_path / "there") == ["a.png"]


# ---- outputs among the inputs ----------------------------------------------------------------------------------------


def test_outputs_are_no_inputs_of_the_next_run(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "b.jpg"):
        draw(folder / name)
    for inputs in (lambda: [folder], lambda: sorted(folder.iterdir())):  # as `in` and as `in/*`
        for _ in range(2):
            run(inputs(), folder / "out")
            assert files(folder) == ["a.png", "b.jpg", "out/a.png", "out/b.jpg"]


@pytest.mark.parametrize("inputs", [lambda folder: [folder], lambda folder: sorted(folder.glob("*.*"))])
def test_suffix_into_the_same_folder_resumes(tmp_path, inputs):
    folder = tmp_path / "p"
    for name in "abc":
        draw(folder / f"{name}.png")
    assert len(run(inputs(folder), folder, suffix="_x4").written) == 3
    (folder / "c_x4.png").unlink()
    report = run(inputs(folder), folder, suffix="_x4")
    assert (len(report.written), len(report.kept)) == (1, 2)
    assert files(folder) == [f"{name}{end}.png" for name in "abc" for end in ("", "_x4")]
    draw(folder / "d.png")
    assert [path.name for path in run(inputs(folder), folder, suffix="_x4").written] == ["d_x4.png"]
    chained = run([folder / "a_x4.png"], folder, suffix="_x4").written
    assert [path.name for path in chained] == ["a_x4_x4.png"], "an output that is named alone is an input"
    assert not run(inputs(folder), folder, suffix="_x4").written


def test_a_run_killed_before_it_recorded_an_output_resumes(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    for name in "ab":
        draw(folder / f"{name}.png")
    with monkeypatch.context() as killed:
        killed.setattr("sr.inference.folders.manifest.Manifest.add", lambda *args: None)
        run(folder, folder, suffix="_x4")
    assert len(run(folder, folder, suffix="_x4").written) == 2
    assert files(folder) == ["a.png", "a_x4.png", "b.png", "b_x4.png"]


def test_an_image_of_someone_else_is_not_overwritten(tmp_path):
    folder = tmp_path / "p"
    for name in ("a.png", "a_x4.png"):
        draw(folder / name)
    with pytest.raises(UserError, match=r"a_x4.png would overwrite an input; give another output folder"):
        run(folder, folder, suffix="_x4")
    assert files(folder) == ["a.png", "a_x4.png"]


# ---- names -----------------------------------------------------------------------------------------------------------


def test_names_as_long_as_the_file_system_allows(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    accents = "é" * ((longest - 4) // 2)
    for stem in ("a" * (longest - 4), accents, "b" * (longest - 6)):
        draw(tmp_path / "in" / f"{stem}.png")
    assert len(run(tmp_path / "in", tmp_path / "out").written) == 3
    report = run(tmp_path / "in", tmp_path / "x4", suffix="_x4")
    assert not report.written
    assert len(report.failed) == 3
    assert all(f"bytes of at most {longest}; shorten the name" in reason for _, reason in report.failed)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    draw(tmp_path / "in" / name)
    for _ in range(2):
        report = run(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in report.kept] == [name]


def test_short_names_differ():
    names = [f"{'é' * 120}{n}.png" for n in range(20)]
    assert len({short_name(name) for name in names}) == 20
    assert all(len(os.fsencode(short_name(name))) <= 100 for name in names)
    assert short_name("a.png") == "a.png"


# ---- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encode",
    [
        lambda lines: b"\xef\xbb\xbf" + "\r\n".join(lines).encode(),
        lambda lines: "\n".join(lines).encode("utf-16"),
        lambda lines: "\r\n".join(f'"{line}"' for line in lines).encode(),
        lambda lines: "\n".join(f"  '{line}'  " for line in lines).encode(),
        lambda lines: "\r".join(lines).encode(),
        lambda lines: "\0".join(lines).encode() + b"\0",
        lambda lines: "\n".join(["# comment", "", *lines]).encode(),
    ],
    ids=["bom-crlf", "utf-16", "quotes", "single quotes", "cr", "find -print0", "comments"],
)
def test_lists_as_other_systems_write_them(tmp_path, encode):
    paths = [draw(tmp_path / name) for name in ("a b.png", "é.png", "it's.png")]
    (tmp_path / "list.txt").write_bytes(encode([str(path) for path in paths]))
    assert read_list(tmp_path / "list.txt") == paths


def test_lists_with_home_variables_and_odd_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOTOS", str(tmp_path / "p"))
    monkeypatch.chdir(tmp_path)
    paths = [draw(tmp_path / name) for name in ("h.png", "p/v.png", " spaces .png", '"quoted".png', "x\u2028y.png")]
    lines = ["~/h.png", "$PHOTOS/v.png", " spaces .png", '"quoted".png', "x\u2028y.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read_list("~/list.txt") == paths


# ---- two launches, outputs that cannot be written --------------------------------------------------------------------


def test_a_second_launch_into_the_same_folder_is_refused(tmp_path):
    for name in ("in/a.png", "more/b.png"):
        draw(tmp_path / name)
    seen = []

    def work(image: ImageData, on_tiles: Any) -> ImageData:
        with pytest.raises(UserError, match=rf"out is being written to by process {os.getpid()} on host .*--shared"):
            run(tmp_path / "more", tmp_path / "out")
        seen.append(run(tmp_path / "more", tmp_path / "out", shared=True))
        return image

    assert len(run(tmp_path / "in", tmp_path / "out", work).written) == 1
    assert len(seen[0].written) == 1
    assert len(list((tmp_path / "out" / FOLDER).glob("*.jsonl"))) == 1, "merged by the launch with the lock"
    assert len(run(tmp_path / "more", tmp_path / "out", shared=True).kept) == 1
    assert len(run([tmp_path / "in", tmp_path / "more"], tmp_path / "out").kept) == 2
    assert not (tmp_path / "out" / FOLDER / "lock").exists()


def test_an_output_folder_that_cannot_be_written_is_named_before_the_work(tmp_path):
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "out", Path("/proc/nowhere")):
        with pytest.raises(UserError, match=f"cannot write to {output}: .*; choose another output folder"):
            run(tmp_path / "in", output, same)


def test_a_single_output_that_cannot_be_written_is_named(tmp_path):
    draw(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    report = run(tmp_path / "in", tmp_path / "out")
    assert reasons(report.failed) == {"a.png": f"cannot write {tmp_path / 'out' / 'a.png'}: Is a directory"}


def test_a_write_that_fails_names_the_output(tmp_path, monkeypatch):
    def too_large(*_: object, **__: object) -> int:
        raise OSError(errno.EFBIG, "File too large")  # of write(2), without a name

    monkeypatch.setattr(pipeline, "write_image", too_large)
    report = run(draw(tmp_path / "in" / "a.png").parent, tmp_path / "out")
    assert reasons(report.failed) == {"a.png": f"cannot write {tmp_path / 'out' / 'a.png'}: File too large"}


def test_a_folder_may_have_any_name(tmp_path):
    draw(tmp_path / "a.png")
    assert run(tmp_path / "a.png", tmp_path / "x.v2.png", as_folder=True).written == [tmp_path / "x.v2.png" / "a.png"]


@pytest.mark.parametrize("suffix", ["a/b", "/x4", "\0"])
def test_a_suffix_that_is_no_name(tmp_path, suffix):
    draw(tmp_path / "a.png")
    with pytest.raises(UserError, match="is no part of a file name"):
        run(tmp_path / "a.png", tmp_path / "out", suffix=suffix)


def test_damaged_images_are_converted_and_listed_every_time(tmp_path: Path, capfd: Any) -> None:
    from sr.cli import main

    whole = draw(tmp_path / "whole.jpg").read_bytes()
    large = tmp_path / "in" / "half.jpg"
    large.parent.mkdir()
    Image.radial_gradient("L").resize((256, 256)).convert("RGB").save(large, quality=95)
    large.write_bytes(large.read_bytes()[: large.stat().st_size // 2])
    (tmp_path / "in" / "whole.jpg").write_bytes(whole + b"garbage")
    call: Callable[..., int] = lambda *more: main(  # noqa: E731
        ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", "bicubic", "--scale", "2", *more]
    )
    for count in ("2 image(s) written", "0 image(s) written"):
        assert call() == 1
        printed = capfd.readouterr()
        assert count in printed.out
        assert "of its rows are missing" in printed.err.partition("half.jpg: ")[2]
        assert "whole.jpg" not in printed.err
    assert call("--strict", "--again") == 1
    assert "is truncated" in capfd.readouterr().err
