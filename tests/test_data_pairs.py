"""Pairing of gt and lq images by name, and what a folder source reports of files that it skips."""

import os
from pathlib import Path

import pytest

from sr import cli
from sr.core.errors import UserError
from sr.data import FolderSource, Paired, Unpaired
from sr.data.make_shards import make_shards
from sr.data.pairs import pair_up
from sr.data.paths import Images, find_images
from sr.data.summary import summary
from tests.helpers.data import image, write_rgb_in


def images(*keys):
    return Images([Path(f"{key}.png") for key in keys], list(keys))


def paired(gt, lq):
    return [path.with_suffix("").as_posix() for path in pair_up(images(*gt), images(*lq)).lq]


def test_partners_have_the_usual_endings():
    for high, low in [("a", "a"), ("a", "ax4"), ("a", "a_x4"), ("a_HR", "a_LR"), ("a_gt", "a-lq"), ("aHR", "aLRx4")]:
        assert paired([high], [low]) == [low]
    assert paired(["a", "a_x2"], ["a_x2", "a"]) == ["a", "a_x2"], "an equal name comes first"
    assert paired(["p/a"], ["q/r/a"]) == ["q/r/a"], "folders may differ where names are unique"


def test_where_names_repeat_partners_have_the_same_path():
    gt, lq = ["c1/000", "c2/000", "c2/001"], ["c2/001x4", "c2/000x4", "c1/000x4"]
    assert paired(gt, lq) == ["c1/000x4", "c2/000x4", "c2/001x4"]
    with pytest.raises(UserError, match=r"c3/000\.png has no partner.*has to end in c3/000"):
        paired([*gt, "c3/000"], lq)


def test_ambiguous_partners_are_named():
    with pytest.raises(UserError, match=r"X2/0001x2\.png and X4/0001x4\.png have the same name"):
        paired(["0001"], ["X2/0001x2", "X4/0001x4"])
    with pytest.raises(UserError, match="same name"):
        pair_up(Images([Path("a.png"), Path("a.jpg")], ["a", "a"]), images("a"))


def test_frames_of_clips_are_pairs_in_folders_and_shards(tmp_path):
    for clip in (1, 2):
        for frame in (0, 1):
            write_rgb(tmp_path / f"hr/c{clip}/00{frame}.png", 10 * clip + frame, 64)
            write_rgb(tmp_path / f"lr/c{clip}/00{frame}.png", 100 + 10 * clip + frame, 16)
    for gt in (f"{tmp_path}/hr", f"{tmp_path}/hr/*/*.png", f"{tmp_path}/hr/**/*.png"):
        source = FolderSource(gt=gt, lq=f"{tmp_path}/lr")
        assert [int(source.read(0, i).lq[0, 0, 0]) for i in range(4)] == [110, 111, 120, 121]
    report = make_shards(
        tmp_path / "hr", tmp_path / "out", lq=tmp_path / "lr", scale=4, size=64, step=64, progress=False
    )
    assert report.samples == 4


def write_rgb(path, number, size):
    from sr.images import write_rgb as write

    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, image(number, size))


def test_the_summary_counts_samples_and_skipped_files(tmp_path):
    for name in ("a.png", "b.png"):
        write_rgb_in(tmp_path / "hr" / name, 1)
    for name in ("a.png", "b.png", "c.png"):
        write_rgb_in(tmp_path / "lr" / name, 1)
    (tmp_path / "hr" / "notes.txt").write_text("")
    (tmp_path / "hr" / ".cache").mkdir()
    (tmp_path / "hr" / "loop").symlink_to(tmp_path / "hr")
    os.mkfifo(tmp_path / "hr" / "pipe.png")
    text = summary(Paired(a=f"{tmp_path}/lr", b=f"{tmp_path}/hr"))
    assert text.startswith("2 samples; 5 files skipped: ")
    for part in ("1 hidden", "1 with suffix .txt", "1 link loops", "1 named pipes", "1 without partner", "lr/c.png"):
        assert part in text
    both = Unpaired(
        a=lambda channels: FolderSource(gt=f"{tmp_path}/lr"), b=lambda channels: FolderSource(gt=f"{tmp_path}/hr")
    )
    assert summary(both).startswith("b: 2 samples; 4 files skipped:")
    assert summary(both).endswith("a: 3 samples")


def test_a_glob_takes_regular_files_and_goes_around_no_loop(tmp_path):
    write_rgb_in(tmp_path / "set" / "a.png", 1)
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    found = find_images(f"{tmp_path}/set/**/*.png")
    assert [path.name for path in found.paths] == ["a.png"]
    assert set(found.skipped.reasons) == {"link loops", "named pipes"}
    with pytest.raises(UserError, match=r"pipe\.png' is a named pipe"):
        find_images(f"{tmp_path}/set/pipe.png")


def test_names_that_are_not_utf8_are_trained_on(tmp_path):
    write_rgb_in(tmp_path / "set" / "a.png", 7)
    os.rename(tmp_path / "set" / "a.png", os.fsencode(tmp_path) + b"/set/caf\xe9.png")
    write_rgb_in(tmp_path / "set" / "torn.png", 1)
    torn = os.fsencode(tmp_path) + b"/set/torn\xff.png"
    os.rename(tmp_path / "set" / "torn.png", torn)
    with open(torn, "r+b") as file:
        file.truncate(40)
    source = FolderSource(gt=f"{tmp_path}/set", lq=f"{tmp_path}/set")
    assert int(source.read(0, 0).gt[0, 0, 0]) == 7
    assert source.name(0, 0).endswith(r"/caf\xe9.png")
    with pytest.raises(UserError) as caught:
        source.read(0, 1)
    str(caught.value).encode("utf-8")


def test_shards_of_names_that_are_not_utf8(tmp_path):
    write_rgb(tmp_path / "set/a.png", 7, 64)
    write_rgb(tmp_path / "set/b.png", 7, 16)
    for name in "ab":
        os.rename(tmp_path / f"set/{name}.png", os.fsencode(tmp_path) + b"/set/" + name.encode() + b"\xe9.png")
    report = make_shards(tmp_path / "set", tmp_path / "out", size=64, step=64, progress=False)
    assert report.samples == 1
    [(name, reason)] = report.skipped
    assert name.endswith(r"b\xe9.png")
    assert "smaller" in reason


def test_validation_pairs_as_training_does(tmp_path):
    from sr.evaluate.validate import val_set

    for clip in (1, 2):
        write_rgb(tmp_path / f"hr/c{clip}/000_HR.png", 10 * clip, 64)
        write_rgb(tmp_path / f"lr/c{clip}/000_LR.png", 100 * clip, 16)
    os.rename(tmp_path / "hr/c1", os.fsencode(tmp_path) + b"/hr/c\xe9")
    os.rename(tmp_path / "lr/c1", os.fsencode(tmp_path) + b"/lr/c\xe9")
    found = val_set("clips", hr=find_images(f"{tmp_path}/hr").paths, lr=find_images(f"{tmp_path}/lr").paths, scale=4)
    assert [round(float(item.load().lq[0, 0, 0]) * 255) for item in found.items] == [200, 100]
    for item in found.items:
        f"{item.name} {item.place}".encode()


def test_files_skipped_by_data_make_are_printed(tmp_path, capsys):
    from types import SimpleNamespace

    from sr.config.options import Make
    from sr.train.builder import Builder

    write_rgb(tmp_path / "set/a.png", 7, 64)
    (tmp_path / "set/notes.txt").write_text("")
    options = SimpleNamespace(scale=4, data=SimpleNamespace(source={"path": str(tmp_path / "out")}))
    build = SimpleNamespace(options=options, _data_channels=(3, 3))
    Builder._make_shards(build, Make(photos=str(tmp_path / "set"), size=64, step=64))
    assert f"data.make: 1 file skipped: 1 with suffix .txt ({tmp_path}/set/notes.txt)" in capsys.readouterr().out


def test_a_run_ends_on_no_name_and_no_special_file(recipe, photos, capfd):
    os.rename(photos / "photo_0.png", os.fsencode(photos) + b"/caf\xe9.png")
    with open(os.fsencode(photos) + b"/torn\xff.png", "wb") as file:
        file.write((photos / "photo_1.png").read_bytes()[:60])
    os.mkfifo(photos / "pipe.png")
    (photos / "loop").symlink_to(photos)
    options = recipe(train__total_steps=2, data__max_bad_fraction=0.5, degrade=[{"type": "downscale"}])
    assert cli.main(["train", str(options)]) == 0
    out, err = capfd.readouterr()
    assert "data: 7 samples; 2 files skipped: 1 link loops" in out
    assert "named pipes" in out
    assert "torn\\xff.png" in out + err
