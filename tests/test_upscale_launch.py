"""Several processes upscale one folder: shared work, one report; a later launch finishes after a kill."""

import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from sr.nets.io.load import architecture
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.rrdbnet import RRDBNet
from tests.helpers.program import ON_CPU, ROOT, TWO, sr

pytestmark = pytest.mark.distributed

COUNT = 30


def model(path: Path) -> Path:
    kwargs = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    save_safetensors(path, RRDBNet(**kwargs).state_dict(), architecture("rrdbnet", kwargs))
    return path


def images(folder: Path) -> Path:
    folder.mkdir()
    for n in range(COUNT):
        Image.new("RGB", (150 + n, 150), (5 * n, 50, 90)).save(folder / f"{n:02}.png")
    (folder / "bad.png").write_bytes(b"nothing")
    return folder


def made(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.png"))


def kill_when(command: list[str], enough) -> None:
    """Start it, and end all of its processes at once when there is enough."""
    environment = {**os.environ, **ON_CPU, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not enough() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    processes = [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]
    for process in processes:
        process.suspend()  # or those that are left would see the others go
    for process in processes:
        process.kill()
    running.wait()
    psutil.wait_procs(processes, timeout=10)


def test_two_processes_share_a_folder_and_what_a_killed_launch_made_stays(tmp_path):
    out = tmp_path / "out"
    command = ["upscale", str(images(tmp_path / "in")), "-o", str(out), "-m", str(model(tmp_path / "m.safetensors"))]
    kill_when([*TWO, "-m", "sr", *command], lambda: len(made(out)) >= 4)
    before = {name: (out / name).stat().st_mtime_ns for name in made(out)}
    assert 4 <= len(before) < COUNT
    assert all(Image.open(out / name).size == (300 + 2 * int(name[:2]), 300) for name in before), "none is half"

    done = sr(*command, launcher=TWO, **ON_CPU)
    assert done.returncode != 0, "one image fails"
    assert done.stderr.count("bad.png: not an image in a known format") == 1
    assert {Image.open(out / name).size for name in made(out)} == {(300 + 2 * n, 300) for n in range(COUNT)}
    kept = sum((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert kept >= len(before) - 8, "all but those renamed and not yet noted down: one a writer at most"
    assert done.stdout.count(f"{COUNT - kept} image(s) written to {out}, {kept} up to date") == 1
    lines = [json.loads(line) for file in (out / ".sr").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert sorted(line["target"] for line in lines) == made(out)


def test_a_user_error_ends_all_processes(tmp_path):
    command = ("upscale", tmp_path / "none", "-o", tmp_path / "out", "-m", "bicubic", "--scale", "2")
    done = sr(*command, launcher=TWO, **ON_CPU)
    assert done.returncode != 0
    assert "there is no such file or folder; correct the path" in done.stderr
