"""Images in parquet files and in BasicSR's LMDB folders, and paths with `~` and variables."""

import multiprocessing
from itertools import islice

import fsspec
import pytest

from sr.core.errors import UserError
from sr.data import FolderSource, LmdbSource, ParquetSource, ShardSource
from sr.data.loader import Loader
from sr.images import ImageError
from tests.helpers.data import SETTINGS, flat, make_tar, png, same, shown, write_rgb_in


def write_lmdb(folder, images, suffix=".png"):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key, data in images.items():
            transaction.put(key.encode(), data)
    lines = [f"{key}{suffix} (8,8,3) 1\n" for key in images]
    (folder / "meta_info.txt").write_text("".join(lines))
    return str(folder)


def test_lmdb_of_basicsr_is_read_as_it_is(tmp_path):
    gt = write_lmdb(tmp_path / "gt.lmdb", {f"{n:04d}_s001": png(n, 32) for n in range(6)})
    lq = write_lmdb(tmp_path / "lq.lmdb", {f"{n:04d}_s001x4": png(100 + n, 8) for n in range(6)})
    source = LmdbSource(gt=gt, lq=lq)
    assert (source.counts, shown(source)) == ([6], [0, 1, 2, 3, 4, 5])
    assert int(source.read(0, 2).lq[0, 0, 0]) == 102
    assert source.name(0, 2).endswith("gt.lmdb: 0002_s001")
    assert not source.skipped.total
    fewer = write_lmdb(tmp_path / "fewer.lmdb", {f"{n:04d}_s001": png(n, 32) for n in range(4)})
    assert str(LmdbSource(gt=fewer, lq=lq).skipped) == "2 files skipped: 2 without partner (0004_s001x4)"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert int(pool.apply(source.read, (0, 3)).gt[0, 0, 0]) == 3
    (tmp_path / "gt.lmdb" / "meta_info.txt").write_text("none.png (8,8,3) 1\n")
    with pytest.raises(ImageError, match="lacks this key"):
        LmdbSource(gt=gt).read(0, 0)
    with pytest.raises(UserError, match=r"is no LMDB folder of BasicSR .*name the folder"):
        LmdbSource(gt=str(tmp_path))


@pytest.mark.slow
def test_basicsr_writes_what_we_read(tmp_path, monkeypatch):
    pytest.importorskip("basicsr")
    lmdb = pytest.importorskip("lmdb")
    from sr.nets.io.basicsr import basicsr

    make = basicsr("utils.lmdb_util").make_lmdb_from_imgs
    for number in range(3):
        write_rgb_in(tmp_path / "in" / f"{number}.png", number)
    names = [f"{number}.png" for number in range(3)]
    opened, size = lmdb.open, {"map_size": 1 << 20}  # basicsr's estimate is too small for such small images
    monkeypatch.setattr(lmdb, "open", lambda path, **given: opened(path, **(given | size)))
    make(str(tmp_path / "in"), str(tmp_path / "x.lmdb"), names, ["0", "1", "2"])
    assert shown(LmdbSource(gt=str(tmp_path / "x.lmdb"))) == [0, 1, 2]


def write_parquet(path, rows, per_group, struct=True):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": data, "path": f"{n}.png"} if struct else data for n, data in enumerate(rows)]
    table = pyarrow.table({"image": cells, "text": ["a"] * len(rows)})
    parquet.write_table(table, path, row_group_size=per_group)


def test_row_groups_of_parquet_files_are_shards(tmp_path):
    write_parquet(tmp_path / "0.parquet", [png(n, 24) for n in range(7)], 3)
    write_parquet(tmp_path / "1.parquet", [png(n, 24) for n in range(7, 10)], 5, struct=False)
    source = ParquetSource(path=str(tmp_path))
    assert source.counts == [3, 3, 1, 3]
    assert shown(source) == list(range(10))
    assert source.name(1, 2) == "0.parquet: row group 1, row 2"
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path) + "/", "/columns/", recursive=True)
    remote = ParquetSource(path="memory://columns/*.parquet")
    streams = [Loader(s, batch_size=4, workers=w, **SETTINGS).batches(8) for s, w in ((source, 2), (remote, 0))]
    for ours, theirs in islice(zip(*streams, strict=True), 5):
        ours, theirs = flat(ours), flat(theirs)
        assert all(same(ours[position], theirs[position]) for position in ours)
    memory.rm("/columns", recursive=True)


def test_what_is_wrong_with_a_parquet_file_is_named(tmp_path):
    write_parquet(tmp_path / "x.parquet", [png(1), b"no image", None], 3)
    with pytest.raises(UserError, match=r"x\.parquet has no column 'jpg'; set gt and lq to two of image, text"):
        ParquetSource(path=str(tmp_path / "x.parquet"), gt="jpg")
    source = ParquetSource(path=str(tmp_path / "x.parquet"))
    for row, reason in ((1, "not an image"), (2, "holds no image bytes")):
        with pytest.raises(ImageError, match=reason):
            source.read(0, row)
    (tmp_path / "y.parquet").write_bytes(b"nothing like it")
    with pytest.raises(UserError, match=r"y\.parquet cannot be read"):
        ParquetSource(path=str(tmp_path / "y.parquet"))
    with pytest.raises(UserError, match="there is no"):
        ParquetSource(path=str(tmp_path / "none.parquet"))


def test_home_and_variables_are_expanded_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SETS", str(tmp_path / "sets"))
    write_rgb_in(tmp_path / "sets" / "a.png", 7)
    make_tar(tmp_path / "sets" / "a.tar", {"a.png": png(8)})
    (tmp_path / "list.txt").write_text("$SETS/a.tar\n")
    assert shown(FolderSource(gt="~/sets")) == shown(FolderSource(gt="$SETS/*.png")) == [7]
    for path in ("~/sets/a.tar", "$SETS", "${SETS}/a.tar", "list:~/list.txt"):
        assert shown(ShardSource(path=path)) == [8], path
