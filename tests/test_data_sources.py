"""Shards, their index, and folders as sources."""

import multiprocessing
import pickle
import shutil
import subprocess
import tarfile

import pytest

from sr.core.errors import UserError
from sr.data import SOURCES, FolderSource, ShardSource, index, scan
from sr.data.paths import image_paths
from sr.images import ImageError
from tests.helpers.data import image, make_tar, png, shown, write_rgb_in


def test_the_table_names_the_sources():
    translation = ["side_by_side", "paired", "unpaired", "colorize", "edges"]
    assert list(SOURCES) == ["shards", "folder", "lmdb", "parquet", "mix", *translation]


def test_members_of_one_key_are_a_sample(tmp_path):
    members = {"a.txt": b"x", "a.png": png(1), "dir/b.gt.png": png(2), "dir/b.lq.png": png(3, 2), "c.HR.PNG": png(4)}
    make_tar(tmp_path / "x.tar", {**members, "c.lr.png": png(5, 2), ".hidden.png": png(6), "d.json": b"{}"})
    source = ShardSource(path=str(tmp_path))
    assert source.counts == [3]
    assert shown(source) == [1, 2, 4]
    assert [source.name(0, i) for i in range(3)] == ["x.tar: a", "x.tar: dir/b", "x.tar: c"]
    assert source.read(0, 0).lq is None
    assert [source.read(0, i).lq.shape for i in (1, 2)] == [(2, 2, 3)] * 2


def test_tars_of_webdataset_gnu_tar_and_pax_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "1.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"k{number}", "png": image(number), "json": {"n": number}})
    long = "ü" * 30 + "/" + "n" * 150 + "/" + "m" * 120
    make_tar(tmp_path / "2.tar", {f"{long}.png": png(10)}, format=tarfile.GNU_FORMAT)
    make_tar(tmp_path / "3.tar", {f"{long}.png": png(11)}, format=tarfile.PAX_FORMAT)
    files = tmp_path / "files"
    for number in (20, 21):
        write_rgb_in(files / f"s p{number}.png", number)
    write_rgb_in(files / f"{'q' * 140}.png", 22)
    subprocess.run(["tar", "-C", files, "--sort=name", "-cf", tmp_path / "4.tar", "."], check=True)
    source = ShardSource(path=str(tmp_path))
    assert source.counts == [3, 1, 1, 3]
    assert shown(source)[:5] == [0, 1, 2, 10, 11]
    assert sorted(shown(source)[5:]) == [20, 21, 22]
    assert source.name(1, 0) == f"2.tar: {long}"


def test_folder_list_glob_and_braces_name_the_same_shards(tmp_path):
    for number in range(3):
        make_tar(tmp_path / f"t-{number}.tar", {"a.png": png(number)})
    tars = f"{tmp_path}/t-"
    for path in (f"{tars}*.tar", f"{tars}{{0..2}}.tar", [f"{tars}0.tar", f"{tars}{{1,2}}.tar"]):
        assert shown(ShardSource(path=path)) == [0, 1, 2]
    for path in (f"{tars}{{0..3}}.tar", f"{tmp_path}/u*.tar", f"{tmp_path}/none", []):
        with pytest.raises(UserError, match=r"none|t-3|matches no"):
            ShardSource(path=path)


def test_the_start_reads_only_the_folder_index_and_a_shard_only_its_own(tmp_path, monkeypatch):
    for number in range(3):
        make_tar(tmp_path / f"{number}.tar", {"a.png": png(number), "b.png": png(number)})
    ShardSource(path=str(tmp_path))
    assert {path.name for path in tmp_path.glob("*.json")} == {"index.json", *(f"{n}.index.json" for n in range(3))}
    read = []
    monkeypatch.setattr(scan, "scan", lambda *_, **__: pytest.fail("scanned again"))
    monkeypatch.setattr(scan, "load", lambda tar, *_, load=index.load: read.append(tar.name) or load(tar))
    source = ShardSource(path=str(tmp_path))
    assert source.counts == [2, 2, 2]
    assert read == []
    source.read(1, 0)
    source.read(1, 1)
    assert read == ["1.tar"]


def test_a_folder_that_cannot_be_written_is_indexed_in_memory(tmp_path, monkeypatch):
    make_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)})
    monkeypatch.setattr(scan, "save", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    source = ShardSource(path=str(tmp_path))
    assert shown(source) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    assert shown(pickle.loads(pickle.dumps(source))) == [1, 2]


def test_a_stale_or_damaged_index_is_not_believed(tmp_path):
    tar = make_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)})
    ShardSource(path=str(tmp_path))
    make_tar(tar, {"longer/name.png": png(3, 200), "b.png": png(4)})
    assert shown(ShardSource(path=str(tmp_path))) == [3, 4]
    for damage in ("", "{", "[]", '{"version": 1, "bytes": 3}', "[" * 100000):
        index.sidecar(tar).write_text(damage)
        assert shown(ShardSource(path=str(tmp_path))) == [3, 4]
        (tmp_path / "index.json").write_text(damage)
        with pytest.raises(UserError, match=r"index\.json.*delete"):
            ShardSource(path=str(tmp_path))
        (tmp_path / "index.json").unlink()
        ShardSource(path=str(tmp_path))
    make_tar(tar, {"a.png": png(5)})
    with pytest.raises(UserError, match="holds 1 samples but"):
        ShardSource(path=str(tmp_path)).read(0, 0)


def test_damaged_tars_are_errors_not_fewer_samples(tmp_path):
    whole = make_tar(tmp_path / "x.tar", {f"{number}.png": png(number, 40) for number in range(20)}).read_bytes()
    damaged = bytearray(whole)
    second = scan.scan(tmp_path / "x.tar").spans[5, 0, 0] - 512
    damaged[second : second + 512] = b"\xff" * 512
    for data in (b"", b"nothing like it" * 100, bytes(damaged), whole[: second + 700], whole[: second + 100]):
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(UserError, match=r"x\.tar"):
            ShardSource(path=str(tmp_path / "x.tar"))
    (tmp_path / "x.tar").write_bytes(whole[:second])  # some writers leave out the zeros at the end
    assert ShardSource(path=str(tmp_path)).counts == [5]


def test_compressed_and_sparse_tars_and_ambiguous_samples_are_refused(tmp_path):
    make_tar(tmp_path / "a.png.tar", {"a.png": png(1)})
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.add(tmp_path / "a.png.tar", "a.png")
    with pytest.raises(UserError, match=r"is compressed.*gzip -dc .*x\.tar > unpacked"):
        scan.scan(tmp_path / "x.tar")
    with pytest.raises(UserError, match="two gt images"):
        scan.scan(make_tar(tmp_path / "x.tar", {"a.png": png(1), "a.jpg": png(1)}))
    with pytest.raises(UserError, match="no gt image for the sample 'a'"):
        scan.scan(make_tar(tmp_path / "x.tar", {"a.lq.png": png(1)}))
    with pytest.raises(UserError, match="holds no images"):
        ShardSource(path=str(make_tar(tmp_path / "y.tar", {"a.txt": b""})))
    with open(tmp_path / "hole.png", "wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "-C", tmp_path, "--sparse", "-cf", tmp_path / "x.tar", "hole.png"], check=True)
    with pytest.raises(UserError, match="sparse"):
        scan.scan(tmp_path / "x.tar")


def test_a_torn_image_in_a_shard_is_named(tmp_path):
    make_tar(tmp_path / "x.tar", {"a.png": png(1)[:40], "b.png": b""})
    source = ShardSource(path=str(tmp_path))
    for number, key in enumerate("ab"):
        with pytest.raises(ImageError, match=rf"x\.tar: {key}: "):
            source.read(0, number)


def test_many_shards_keep_few_files_open(tmp_path):
    for number in range(40):
        make_tar(tmp_path / f"{number:02d}.tar", {"a.png": png(number)})
    source = ShardSource(path=str(tmp_path))
    assert shown(source) == list(range(40)) == shown(source)
    assert len(source._open) == 32


def test_folder_source_reads_files_and_pairs(tmp_path):
    for number in (1, 2):
        write_rgb_in(tmp_path / "hr" / f"im{number}.png", number)
        write_rgb_in(tmp_path / "lr" / f"im{number}x4.png", 10 + number)
    source = FolderSource(gt=f"{tmp_path}/hr", lq=f"{tmp_path}/lr")
    assert source.counts == [2]
    assert shown(source) == [1, 2]
    assert source.read(0, 1).lq[0, 0, 0] == 12
    assert source.name(0, 0) == f"{tmp_path}/hr/im1.png"
    assert FolderSource(gt=[f"{tmp_path}/hr/*.png"]).read(0, 0).lq is None
    shutil.rmtree(tmp_path / "lr")
    write_rgb_in(tmp_path / "lr" / "im1.png", 1)
    with pytest.raises(UserError, match=r"im2\.png has no partner"):
        FolderSource(gt=f"{tmp_path}/hr", lq=f"{tmp_path}/lr")


def test_a_file_of_a_package(tmp_path):
    pytest.importorskip("skimage")
    [path] = image_paths("package:skimage/data/coffee.png")
    assert path.is_file()
    assert image_paths("package:skimage/data/c*e*.png") == image_paths([f"{path.parent}/c*e*.png"])
    for wrong in ("package:nosuchpackage/a.png", "package:skimage/data/none.png", "package:../../etc"):
        with pytest.raises(UserError, match=r"package|there is no"):
            image_paths(wrong)


def test_processes_that_index_a_folder_at_once_lose_no_entry(tmp_path):
    for number in range(8):
        make_tar(tmp_path / f"{number}.tar", {"a.png": png(number)})
    context = multiprocessing.get_context("fork")
    every = [context.Process(target=lambda n=n: ShardSource(path=f"{tmp_path}/{n}.tar")) for n in range(8)]
    for process in every:
        process.start()
    for process in every:
        process.join()
    assert sorted(index.read_folder_index(tmp_path)) == [f"{number}.tar" for number in range(8)]
    assert not list(tmp_path.glob(".*"))


def test_alpha_that_training_drops_is_reported_at_the_start(tmp_path):
    from PIL import Image

    from sr.data.folder import FolderSource
    from sr.data.summary import summary

    Image.new("RGBA", (8, 8)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.jpg")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    told = summary(FolderSource(gt=str(tmp_path)))
    assert told.startswith("4 samples; 1 of 4 gt images that were checked have an alpha channel")
    assert str(tmp_path / "b.png") in told
    assert "alpha" not in summary(FolderSource(gt=str(tmp_path), channels=(4, 4))), "a network of 4 channels keeps it"
    pair = FolderSource(gt=str(tmp_path), lq=str(tmp_path), channels=(3, 4))
    assert "1 of 4 lq images" in summary(pair)
