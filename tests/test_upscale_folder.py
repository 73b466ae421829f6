"""Folders at scale: done once and remembered by content and settings; lists and shards; nothing lost, nothing half."""

import dataclasses
import io
import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sr.core.errors import UserError
from sr.images import ImageData, read_rgb
from sr.inference.folders import pipeline
from sr.inference.folders.convert import ConversionReport, convert
from sr.inference.folders.manifest import FOLDER
from sr.inference.folders.memory_budget import Closed, MemoryBudget
from sr.inference.folders.plan import plan
from sr.nets.io.fingerprint import fingerprint
from sr.nets.rrdbnet import RRDBNet


def draw(path: Path, value: int = 90, size: tuple[int, int] = (7, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 20, 30)).save(path)
    return path


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(f"{FOLDER}/"))


def twice(image: ImageData, on_tiles: Any = None) -> ImageData:
    rgb = image.rgb.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return dataclasses.replace(image, rgb=rgb)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., ConversionReport]:
    """`convert` from in/ to out/, by `twice`."""

    def go(inputs: list[Path] | None = None, work: Any = twice, **changes: Any) -> ConversionReport:
        options = {"title": "t", "settings": {"model": 1}} | changes
        return convert(inputs or [tmp_path / "in"], tmp_path / "out", work, **options)

    return go


# ---- done once -------------------------------------------------------------------------------------------------------


def test_what_is_done_is_kept_and_what_changed_is_made_again(tmp_path, run):
    for name in ("a.png", "deep/b c.jpg", "é.webp"):
        draw(tmp_path / "in" / name)
    assert len(run().written) == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    again = run()
    assert (len(again.written), len(again.kept)) == (0, 3)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if FOLDER not in path.parts)
    draw(tmp_path / "in" / "a.png", 91)
    (tmp_path / "out" / "deep" / "b c.jpg").unlink()
    assert run().written == [tmp_path / "out" / "a.png", tmp_path / "out" / "deep" / "b c.jpg"]
    assert read_rgb(tmp_path / "out" / "a.png")[0, 0, 0] == 91
    (tmp_path / "out" / "é.webp").write_bytes(b"cut")
    assert run().written == [tmp_path / "out" / "é.webp"]
    assert len(run(settings={"model": 2}).written) == 3
    assert len(run(settings={"model": 2}, again=True).written) == 3
    assert len(run(settings=None).written) == 3, "nothing is known of what was asked"


def test_the_content_counts_and_not_the_time(tmp_path, run):
    path = draw(tmp_path / "in" / "a.png")
    run()
    os.utime(path, (1, 1))
    assert run().kept == [tmp_path / "out" / "a.png"]
    draw(path, 91)
    os.utime(path, (2, 2))
    assert run().written == [tmp_path / "out" / "a.png"]


def test_quality_counts_where_it_is_seen(tmp_path, run):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "b.jpg")
    run()
    assert run(quality=50).written == [tmp_path / "out" / "b.jpg"]


def test_damaged_records_cost_work_and_nothing_else(tmp_path, run):
    for name in ("a.png", "b.png"):
        draw(tmp_path / "in" / name)
    run()
    (records,) = (tmp_path / "out" / FOLDER).glob("*.jsonl")
    first, second = records.read_text().splitlines()
    records.write_bytes(f"{first}\n{second[:40]}\n\xff[]\n".encode("latin-1") + b'{"target": 3}\n[[[[')
    report = run()
    assert (len(report.written), len(report.kept)) == (1, 1)
    lines = [path.read_text() for path in (tmp_path / "out" / FOLDER).glob("*.jsonl")]
    assert len(lines) == 1, "folded into one"
    assert {json.loads(line)["target"] for line in lines[0].splitlines()} == {"a.png", "b.png"}


def test_a_single_file_by_name_is_always_made(tmp_path):
    draw(tmp_path / "a.png")
    for _ in range(2):
        report = convert([tmp_path / "a.png"], tmp_path / "b.png", twice, title="t", settings={})
        assert report.written == [tmp_path / "b.png"]
    assert files(tmp_path) == ["a.png", "b.png"]
    assert not (tmp_path / FOLDER).exists()


def test_leftovers_of_a_killed_run_go_when_they_are_old(tmp_path, run):
    draw(tmp_path / "in" / "a.png")
    old, new, other = (tmp_path / "out" / name for name in (".a.png.0a1b.tmp", ".a.png.ffff.tmp", ".x.png.0a1b.tmp"))
    old.parent.mkdir()
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (1, 1))
    run()
    assert files(tmp_path / "out") == [".a.png.ffff.tmp", ".x.png.0a1b.tmp", "a.png"]


def test_a_fingerprint_is_of_the_weights():
    kwargs = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    net = RRDBNet(**kwargs)
    first = fingerprint(net)
    assert fingerprint(net) == first
    with torch.no_grad():
        net.conv_last.bias[1] += 1e-6
    assert fingerprint(net) != first


# ---- lists and shards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["list:", "@"])
def test_a_list_of_paths(tmp_path, run, mark):
    for name in ("in/x/a b.png", "in/y/é.png", "in/z/q/c.png"):
        draw(tmp_path / name)
    lines = ["# mine", "", str(tmp_path / "in/x/a b.png"), str(tmp_path / "in/y/é.png"), str(tmp_path / "in/z")]
    lines += [str(tmp_path / "in/y/missing.png")]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    report = run([Path(f"{mark}{tmp_path / 'list.txt'}")])
    assert files(tmp_path / "out") == ["x/a b.png", "y/é.png", "z/q/c.png"]
    assert report.failed == [(tmp_path / "in/y/missing.png", "No such file or directory")]
    (tmp_path / "empty.txt").write_text("# nothing")
    for name, message in [("empty.txt", "names no files"), ("missing.txt", "No such file")]:
        with pytest.raises(UserError, match=message):
            run([Path(f"{mark}{tmp_path / name}")])


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def encoded(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_images_in_tars_and_names_that_would_leave_the_folder(tmp_path, run):
    members = {"0001.png": encoded(10), "0001.json": b"{}", "k/0002.gt.png": encoded(20), "0003.png": b"torn"}
    evil = {"../up.png": encoded(1), "/abs.png": encoded(2), "a/../../up.png": encoded(3)}
    shard(tmp_path / "in" / "train-00.tar", members | evil)
    shard(tmp_path / "in" / "sub" / "train-01.tar", {"0001.png": encoded(30)})
    report = run()
    expected = ["sub/train-01/0001.png", "train-00/0001.png", "train-00/k/0002.gt.png"]
    assert files(tmp_path / "out") == expected
    assert [read_rgb(tmp_path / "out" / name)[0, 0, 0] for name in expected] == [30, 10, 20]
    reasons = [reason for _, reason in report.failed]
    assert "not an image" in {path.name: reason for path, reason in report.failed}["0003.png"]
    assert sum("leads out of the folder" in reason for reason in reasons) == len(evil), reasons
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert len(run().kept) == 3
    shard(tmp_path / "in" / "sub" / "train-01.tar", {"0001.png": encoded(31)})
    assert run().written == [tmp_path / "out" / "sub/train-01/0001.png"]
    (tmp_path / "in" / "bad.tar").write_bytes(b"x" * 600)
    report = run()
    assert len(report.kept) == 3
    assert "not a complete, uncompressed tar" in dict(report.failed)[tmp_path / "in" / "bad.tar"]


# ---- readers, writers, failures --------------------------------------------------------------------------------------


def test_the_largest_come_first_and_each_result_is_its_own(tmp_path, run, monkeypatch):
    monkeypatch.setattr(pipeline, "READ_PIXELS", 900)
    monkeypatch.setattr(pipeline, "WRITE_PIXELS", 900)
    sizes = {f"{n:02}.bmp": (8 + 4 * (3 * n % 31), 9 + n) for n in range(20)}  # rows of bytes by fours
    for n, (name, size) in enumerate(sizes.items()):
        draw(tmp_path / "in" / name, 10 * n, size)
    (tmp_path / "in" / "05.bmp").write_bytes(b"BMnothing")
    seen, threads = [], set()

    def work(image: ImageData, on_tiles: Any) -> ImageData:
        seen.append(image.pixels)
        threads.add(threading.current_thread())
        if image.rgb[0, 0, 0].mul(255).round() == 70:
            raise ValueError("seven\nis bad")
        return twice(image)

    report = run(work=work)
    assert seen == sorted(seen, reverse=True)
    assert threads == {threading.current_thread()}
    assert [(path.name, reason.split(";")[0]) for path, reason in report.failed] == [
        ("05.bmp", "not an image in a known format"),
        ("07.bmp", "seven is bad"),
    ]
    for n, (name, (width, height)) in enumerate(sizes.items()):
        if n not in (5, 7):
            made = read_rgb(tmp_path / "out" / name)
            assert made.shape == (2 * height, 2 * width, 3)
            assert np.unique(made[..., 0]).tolist() == [10 * n]


@pytest.mark.parametrize("ahead", [0, 1])
def test_small_images_go_together_and_fail_alone(tmp_path, run, ahead):
    for n in range(12):
        draw(tmp_path / "in" / f"{n:02}.png", n)
    groups = []

    def begin(images: Any, on_tiles: Any) -> Callable[[], list[ImageData]]:
        time.sleep(0 if groups else 0.2)  # the readers get ahead
        groups.append(len(images))
        return lambda: [one(image) for image in images]

    def one(image: ImageData, on_tiles: Any = None) -> ImageData:
        if image.rgb[0, 0, 0].mul(255).round() == 3:
            raise ValueError("three")
        return twice(image)

    report = run(work=one, begin=begin, ahead=ahead)
    assert max(groups) > 1
    assert [path.name for path, _ in report.failed] == ["03.png"]
    assert len(report.written) == 11
    assert [read_rgb(path)[0, 0, 0] for path in report.written] == [n for n in range(12) if n != 3]


@pytest.mark.parametrize("ahead", [0, 1])
def test_results_are_collected_after_the_next_images_have_begun(tmp_path, run, ahead):
    for n in range(3):
        draw(tmp_path / "in" / f"{n}.png", n, (1000, 600))  # more than half of BATCH_PIXELS
    events: list[str] = []

    def begin(images: Any, on_tiles: Any) -> Callable[[], list[ImageData]]:
        events.append("begin")
        return lambda: (events.append("finish"), list(map(twice, images)))[1]

    assert len(run(work=lambda image, on_tiles: image, begin=begin, ahead=ahead).written) == 3
    overlapped = ["begin", "begin", "finish", "begin", "finish", "finish"]
    assert events == (overlapped if ahead else ["begin", "finish"] * 3)


def test_a_full_disk_ends_the_run(tmp_path, run, monkeypatch):
    for n in range(30):
        draw(tmp_path / "in" / f"{n:02}.png", n)
    calls = []

    def full(path: Path, image: ImageData, *, quality: int) -> int:
        calls.append(path)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pipeline, "write_image", full)
    with pytest.raises(OSError, match="No space left"):
        run()
    assert len(calls) < 30
    assert not files(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_complete_files_and_resumes(tmp_path, run, number):
    for n in range(9):
        draw(tmp_path / "in" / f"{n}.png", n)
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it

    def work(image: ImageData, on_tiles: Any) -> ImageData:
        if len(seen) == 5:
            signal.raise_signal(number)
        seen.append(image)
        return twice(image)

    try:
        with pytest.raises(KeyboardInterrupt):
            run(work=work)
    finally:
        signal.signal(signal.SIGINT, before)
    made = files(tmp_path / "out")
    assert all(read_rgb(tmp_path / "out" / name).shape == (10, 14, 3) for name in made)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".tmp")]
    report = run()
    assert len(report.written) + len(report.kept) == 9
    assert len(report.kept) == len(made)


def test_memory_for_pixels_is_granted_in_order():
    budget, order = MemoryBudget(10), []
    budget.take(8, turn=0)
    late = threading.Thread(target=lambda: (budget.take(1, turn=2), order.append(2)))
    next_one = threading.Thread(target=lambda: (budget.take(50, turn=1), order.append(1), budget.give(50)))
    late.start(), next_one.start()
    assert order == [], "50 wait for an empty room, and what is behind waits for them"
    budget.give(8)
    late.join(5), next_one.join(5)
    assert order == [1, 2]
    budget.close()
    with pytest.raises(Closed):
        budget.take(1, turn=3)


# ---- what goes where -------------------------------------------------------------------------------------------------


def test_kinds_of_files_that_are_written_as_others(tmp_path):
    for name in ("a.gif", "b.BMP", "c.mkv", "d.webm", "e.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    found = plan([tmp_path / "in"], tmp_path / "out", format=None, suffix="")
    assert sorted(job.target.name for job in found.jobs) == ["a.png", "b.BMP", "c.mkv", "d.mkv"]
    assert [path for path, _ in found.skipped] == [tmp_path / "in" / "e.txt"]
    found = plan([tmp_path / "in"], tmp_path / "out", format="webp", suffix="_x4")
    assert sorted(job.target.name for job in found.jobs) == ["a_x4.webp", "b_x4.webp", "c_x4.mkv", "d_x4.mkv"]


def test_animations_and_bombs_are_listed_and_the_rest_is_made(tmp_path, run):
    draw(tmp_path / "in" / "a.png")
    frames = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in (10, 200)]
    frames[0].save(tmp_path / "in" / "b.webp", save_all=True, append_images=frames[1:], lossless=True)
    draw(tmp_path / "in" / "c.png", size=(40, 30))
    report = run(max_pixels=1000)
    assert report.written == [tmp_path / "out" / "a.png"]
    reasons = [reason for _, reason in report.failed]
    assert "holds 2 frames; read the first with --first-frame" in reasons[0]
    assert "40x30 pixels are more than the 1000 allowed" in reasons[1]
    assert [path.name for path in run(first_frame=True).written] == ["b.webp", "c.png"]
