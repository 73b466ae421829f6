"""Tars that others published: indexed by their headers, counted while they are read, read in blocks, and filtered."""

import json
import shutil
import tarfile
from collections import Counter, namedtuple
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest

from sr.cli import main
from sr.core.errors import UserError
from sr.data import ShardSource, scan
from sr.data.index import Choice, index_text, parse_counts
from sr.data.loader import Loader
from sr.data.make_index import make_index
from sr.data.sampling_order import SamplingOrder
from sr.data.summary import summary
from sr.data.where import Where, holds, parse
from tests.helpers.data import SETTINGS, flat, make_tar, png, same, shown
from tests.helpers.tiers import slow

pytest_plugins = ["tests.helpers.shard_server"]
NOISE = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


def big_png(number, bytes=100_000):
    """A PNG that decodes to `number`, with trailing bytes as large as a photograph."""
    return png(number, 24) + NOISE[:bytes]


def publish(folder, shards, samples, bytes=100_000):
    """Tars as img2dataset makes them: an image, a JSON file and a caption per key."""
    names = [f"{number:05d}.tar" for number in range(shards)]
    for number, name in enumerate(names):
        members = {}
        for s in range(samples):
            key, value = f"{number:05d}{s:04d}", number * samples + s
            members[f"{key}.png"] = big_png(value, bytes)
            members[f"{key}.json"] = json.dumps({"aesthetic": value, "nsfw": value / 100}).encode()
            members[f"{key}.txt"] = b"a caption"
        make_tar(folder / name, members)
    return names


def sent(server):
    return sum(size for name, size in server.sent.items() if name.endswith(".tar"))


# ---- sr index --------------------------------------------------------------------------------------------------------


def test_an_index_is_made_by_range_requests_without_the_pixels(server, at, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 400_000)
    names = publish(server.folder, shards=3, samples=12)
    server.faults[names[1]] = ["drop", "short", 500]
    file = tmp_path / "index.json"
    report = make_index(f"{server.url}/{{00000..00002}}.tar", file, show=False)
    whole = sum((server.folder / name).stat().st_size for name in names)
    assert (report.samples, report.total) == (36, whole)
    assert report.received <= sent(server) < 0.12 * whole
    assert parse_counts(file.read_bytes()) == {name: scan.scan(server.folder / name).entry for name in names}
    assert report.skipped.reasons["members .json"] == (36, "000000000.json")
    source = at("{00000..00002}.tar", index=str(file))
    assert source.counts == [12, 12, 12]
    assert [at("", index=str(file)).counts, at("*1.tar", index=str(file)).counts] == [[12] * 3, [12]]
    server.sent.clear()
    again = make_index(f"{server.url}/{{00000..00002}}.tar", file, show=False)
    assert (again.samples, again.received, sent(server)) == (36, 0, 0)


def webshart_json(tar):
    """As webshart 0.4.6 writes it: members in any order, and the JSON of a sample repeated in its image's entry."""
    with tarfile.open(tar) as archive:
        rows = {m.name: {"path": m.name, "offset": m.offset_data, "length": m.size} for m in archive}
    for name, row in rows.items():
        if name.endswith(".png") and (other := rows.get(name.replace(".png", ".json"))):
            row |= {f"json_{key}": other[key] for key in ("path", "offset", "length")} | {"json_metadata": {"a": 1}}
    files = dict(sorted(rows.items(), key=lambda row: hash(row[0])))
    return json.dumps({"path": tar.name, "filesize": tar.stat().st_size, "files": files}).encode()


def test_webshart_states_counts_and_offsets(server, at, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 400_000)
    names = publish(server.folder, shards=3, samples=12)
    make_tar(server.folder / names[2], {f"{'long' * 40}.png": big_png(3), "x.txt": b"", "b.gt.png": big_png(4)})
    for name in names:
        content = webshart_json(server.folder / name)
        (server.folder / name.replace(".tar", ".json")).write_bytes(content)
        assert scan.from_listing(content, name, Choice()).entry == scan.scan(server.folder / name).entry
    pattern, file = "{00000..00002}.tar", tmp_path / "index.json"
    source = at(pattern)
    assert (source.counts, sent(server)) == ([12, 12, 2], 0)
    assert shown(source) == [*range(24), 3, 4]
    server.sent.clear()
    report = make_index(f"{server.url}/{pattern}", file, show=False)
    assert report.samples == 26
    assert report.received == sum(server.sent.values()) == sum(p.stat().st_size for p in server.folder.glob("*.json"))
    blocks = at(pattern, index=str(file), read="blocks", cache=str(tmp_path / "blocks"))
    assert (len(blocks.counts), shown(blocks)) == (7, [*range(24), 3, 4])
    (server.folder / "00000.json").write_bytes(
        webshart_json(server.folder / names[0]).replace(b'"filesize": ', b'"filesize": 9')
    )
    assert make_index(f"{server.url}/00000.tar", tmp_path / "again.json", show=False).samples == 12, "of another tar"
    for wrong in (b"[]", b"{}", b'{"filesize": 9, "files": {"a.png": {"offset": 0, "length": 4}}}', b"<html>"):
        with pytest.raises(ValueError, match="Error"):
            scan.from_listing(wrong, "x.tar", Choice())


def test_an_index_is_written_next_to_tars_that_fsspec_can_write(tmp_path):
    make_tar(tmp_path / "a.tar", {"a.png": png(1), "b.png": png(2)})
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "a.tar"), "/foreign/a.tar")
    make_index("memory://foreign/*.tar", show=False)
    assert parse_counts(memory.cat("/foreign/index.json"))["a.tar"].samples == 2
    memory.rm("/foreign", recursive=True)


def test_what_cannot_be_indexed_is_refused(server, at, tmp_path, capsys):
    publish(server.folder, shards=1, samples=1)
    url = f"{server.url}/00000.tar"
    for paths, out, match in (
        (url, None, r"HTTP cannot be written; add -o FILE"),
        ("pipe:cat x.tar", tmp_path / "i.json", "is a command"),
        ([url, url + "?v=2"], tmp_path / "i.json", r"two tars are called 00000\.tar"),
    ):
        with pytest.raises(UserError, match=match):
            make_index(paths, out, show=False)
    server.ranges = False
    with pytest.raises(UserError, match="does not send parts of files"):
        make_index(url, tmp_path / "i.json", show=False)
    (tmp_path / "i.json").write_text('{"shards": []}')
    with pytest.raises(UserError, match=r"i\.json does not list 00000\.tar; write it again"):
        at("00000.tar", index=str(tmp_path / "i.json"))
    with pytest.raises(UserError, match=r"data\.source\.index: .* cannot be read"):
        at("00000.tar", index=str(tmp_path / "none.json"))


def test_the_command_line_indexes_a_folder(tmp_path, capsys):
    make_tar(tmp_path / "a.tar", {"a.image.png": png(1), "b.image.png": png(2), "b.txt": b""})
    assert main(["index", str(tmp_path), "--gt", "image.png", "-o", str(tmp_path / "out.json")]) == 0
    out, err = capsys.readouterr()
    assert "2 samples in 1 tars" in out
    assert "1 members .txt (b.txt)" in err


# ---- sets without published counts -----------------------------------------------------------------------------------


def batches(source, start, number, workers=0):
    return list(islice(Loader(source, batch_size=4, workers=workers, **SETTINGS).batches(start), number))


def equal(some, others):
    return all(
        same(ours[position], theirs[position])
        for ours, theirs in ((flat(a), flat(b)) for a, b in zip(some, others, strict=True))
        for position in ours
    )


@pytest.mark.parametrize("workers", [0, *slow([2])])
def test_the_order_does_not_depend_on_what_is_counted(server, at, tmp_path, workers):
    publish(server.folder, shards=9, samples=5, bytes=1000)
    server.publish(indexed=False)  # other tars, which are not named
    local = ShardSource(path=str(server.folder / "0*.tar"), window=2)
    pattern = "{00000..00008}.tar"
    assert equal(batches(at(pattern, window=2), 0, 20, workers), batches(local, 0, 20))
    assert equal(batches(at(pattern, window=2), 36, 20, workers), batches(local, 36, 20)), "resumed on the same node"
    fresh = ShardSource(path=f"{server.url}/{pattern}", window=2, cache=str(tmp_path / "another"))
    assert equal(batches(fresh, 36, 5, workers), batches(local, 36, 5)), "resumed on another node"


def test_only_the_coming_windows_are_fetched(server, at, monkeypatch):
    publish(server.folder, shards=40, samples=5, bytes=1000)
    source = at("{00000..00039}.tar", window=2)
    assert not any(name.endswith(".tar") for name in server.sent)
    batches(source, 0, 2)
    source.expect([])
    assert len([name for name in server.sent if name.endswith(".tar")]) <= 4


def test_windows_before_a_resume_are_counted_by_their_headers(server, at, monkeypatch):
    monkeypatch.setattr("sr.data.sampling_order.NEXT", 5)
    names = publish(server.folder, shards=12, samples=5)
    source = at("{00000..00011}.tar", window=1)
    [raw] = batches(source, 45, 1)
    source.expect([])
    assert raw.groups[0].positions == [45, 46, 47, 48]
    whole = (server.folder / names[0]).stat().st_size
    assert sent(server) < 9 * 0.2 * whole + 3 * whole


def test_a_set_whose_shards_are_all_empty_is_refused(server, at):
    make_tar(server.folder / "x.tar", {"a.txt": b""})
    with pytest.raises(UserError, match="no shard holds a sample"):
        batches(at("x.tar"), 0, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_out_of_uncounted_shards_is_stated_once(server, at, capfd, workers):
    publish(server.folder, shards=4, samples=3)
    source = at("{00000..00003}.tar", window=2, where=Where(min_side=1, min_bytes=1))
    assert summary(source) == "4 shards whose samples are counted when they are read"
    batches(source, 0, 3, workers)
    [line] = capfd.readouterr().out.splitlines()
    assert line.startswith("data: 6 samples in 2 shards; 12 files skipped: 6 members .json (")


# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_blocks_are_runs_of_whole_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 250_000)
    [name] = publish(tmp_path, shards=1, samples=10)
    index = scan.scan(tmp_path / name)
    assert [samples for *_, samples in index.blocks] == [3, 3, 3, 1]
    data, keys = (tmp_path / name).read_bytes(), []
    for start, size, samples in index.blocks:
        Path(tmp_path, "block").write_bytes(data[start : start + size])
        part = scan.scan(tmp_path / "block", block=True)
        assert len(part.keys) == samples
        keys += part.keys
    assert keys == index.keys


def test_a_set_larger_than_the_cache_is_read_in_blocks(server, at, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 200_000)
    names = publish(server.folder, shards=2, samples=30)
    file = tmp_path / "index.json"
    make_index(f"{server.url}/{{00000..00001}}.tar", file, show=False)
    options = {"index": str(file), "window": 2, "cache_gb": 0.0012}
    with pytest.raises(UserError, match=r"cache_gb .* is less"):
        at("{00000..00001}.tar", **options)
    with pytest.raises(UserError, match="has no index, so its blocks are unknown"):
        at("{00000..00001}.tar", read="blocks")
    server.sent.clear()
    server.faults = {name: ["drop", "reset"] for name in names}
    source = at("{00000..00001}.tar", read="blocks", **options)
    assert (sum(source.counts), len(source.counts)) == (60, 30)
    first = batches(source, 0, 2)
    assert sent(server) < 0.5 * sum((server.folder / name).stat().st_size for name in names)
    stream = first + batches(at("{00000..00001}.tar", read="blocks", **options), 8, 13)
    seen = {(position, int(crop[0][0, 0, 0])) for raw in stream for position, crop in flat(raw).items()}
    assert {value for position, value in seen if position < 60} == set(range(60))
    assert sum(server.held().values()) <= 1.2e6


@pytest.fixture
def larger(server, tmp_path, monkeypatch):
    """4 tars of 4 MB with an index of 80 blocks, for a cache of 1 MB: the options, and the blocks with their values."""
    monkeypatch.setattr(scan, "BLOCK", 200_000)
    names = publish(server.folder, shards=4, samples=40)
    file = tmp_path / "index.json"
    file.write_text(index_text({name: scan.scan(server.folder / name).entry for name in names}))
    blocks = []
    for number, name in enumerate(names):
        first = 40 * number
        for start, size, samples in parse_counts(file.read_bytes())[name].blocks:
            blocks.append(((name, f"bytes={start}-{start + size - 1}"), size, [*range(first, first + samples)]))
            first += samples
    assert (len(blocks), sum(size for _, size, _ in blocks) > 15e6) == (80, True)
    return {"index": str(file), "read": "blocks", "window": 2, "cache_gb": 0.001}, blocks


def values(raws):
    return {position: int(crop[0][0, 0, 0]) for raw in raws for position, crop in flat(raw).items()}


def test_blocks_of_a_larger_set_come_once_each_in_the_order_of_the_seed(server, at, larger):
    options, blocks = larger
    order = SamplingOrder([len(inside) for *_, inside in blocks], seed=1, window=2)
    expected = {position: blocks[order(position).shard][2][order(position).sample] for position in range(200)}
    source = at("{00000..00003}.tar", **options)
    assert server.log == [], "the index suffices to open it"
    held, seen = [], {}
    for raw in islice(Loader(source, batch_size=4, **SETTINGS).batches(), 50):  # 160 samples are an epoch
        seen |= values([raw])
        held.append(sum(server.held().values()))
    source.expect([])
    assert seen == expected
    assert max(held) <= 1e6
    epoch = [row for row, _, _ in blocks]
    assert Counter(server.log[: len(epoch)]) == Counter(epoch), "each block by one request"
    assert set(server.log) == set(epoch)
    assert len(server.log) <= len(epoch) + 24, "and again in the next epoch, one window ahead"


def test_blocks_are_resumed_exactly_on_other_ranks_after_cut_connections(server, at, larger, tmp_path):
    options, blocks = larger
    sizes = {row: size for row, size, _ in blocks}
    order = SamplingOrder([len(inside) for *_, inside in blocks], seed=1, window=2)
    expected = {position: blocks[order(position).shard][2][order(position).sample] for position in range(60, 100)}
    server.faults = {name: ["drop", 500, "short", "reset"] for name in ("00000.tar", "00002.tar")}
    seen = {}
    for rank in range(2):
        source = at("{00000..00003}.tar", cache=str(tmp_path / f"node{rank}"), **options)
        loader = Loader(source, batch_size=4, rank=rank, world=2, **SETTINGS).batches(60)
        seen |= values(islice(loader, 10))
        source.expect([])
    assert seen == expected
    whole = [row for row in server.log if row in sizes]
    earlier = {blocks[order(position).shard][0] for position in range(52)}  # of windows that end before 60
    assert not earlier & set(whole)
    again = [row for row in server.log if row not in sizes]
    assert again, "a cut transfer resumes where it broke"
    ends = {(name, given.rpartition("-")[2]) for name, given in sizes}
    assert {(name, given.rpartition("-")[2]) for name, given in again} <= ends


def test_room_for_blocks_is_checked_before_any_is_fetched(server, at, larger, monkeypatch):
    options, blocks = larger
    needed = sum(sorted(size for _, size, _ in blocks)[-4:])
    with pytest.raises(UserError, match=r"two windows of 2 shards.* are 0\.000\d+ GB, and cache_gb .* is less"):
        at("{00000..00003}.tar", **options | {"cache_gb": 0.99 * needed / 1e9})
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0.99 * needed))
    with pytest.raises(UserError, match=r"has room for .* GB: make room"):
        at("{00000..00003}.tar", **options)
    with pytest.raises(UserError, match="two windows of 2 shards"):
        at("{00000..00003}.tar", **options | {"read": "whole", "cache_gb": 0.01})
    assert server.log == []


# ---- where -----------------------------------------------------------------------------------------------------------


def test_samples_are_filtered_by_size_and_metadata(tmp_path):
    members = {
        "a.png": png(1, 64), "a.json": b'{"aesthetic": 6, "flags": {"nsfw": 0.0}}',
        "b.png": png(2, 64), "b.json": b'{"aesthetic": 3, "flags": {"nsfw": 0.0}}',
        "c.png": png(3, 16), "c.json": b'{"aesthetic": 9, "flags": {"nsfw": 0.0}}',
        "d.json": b"{}", "d.png": png(4, 64), "e.png": png(5, 64),
    }  # fmt: skip
    make_tar(tmp_path / "x.tar", members)
    where = Where(min_side=32, json="aesthetic > 5 and flags.nsfw < 0.1")
    source = ShardSource(path=str(tmp_path), where=where)
    assert shown(source) == [1]
    assert {reason: row for reason, row in source.skipped.reasons.items() if reason.startswith("samples")} == {
        "samples that do not meet aesthetic > 5 and flags.nsfw < 0.1": (1, "b"),
        "samples with a side below 32": (1, "c"),
        "samples whose .json member lacks aesthetic": (1, "d"),
        "samples without a .json member": (1, "e"),
    }
    assert shown(ShardSource(path=str(tmp_path))) == [1, 2, 3, 4, 5], "each condition has an index of its own"
    assert shown(ShardSource(path=str(tmp_path), where=Where(max_side=16))) == [3]
    assert shown(ShardSource(path=str(tmp_path), where=Where(min_bytes=len(png(3, 16)) + 1))) == [1, 2, 4, 5]


@pytest.mark.parametrize("read", ["whole", "blocks"])
def test_a_filtered_remote_set_has_the_order_of_a_local_one(server, at, read, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 1 << 14 if read == "blocks" else 1 << 30)
    publish(server.folder, shards=4, samples=6, bytes=8000)
    make_index(str(server.folder), show=False)
    where = Where(json="aesthetic >= 3 and nsfw < 0.2")
    source = at("{00000..00003}.tar", where=where, read=read, window=2)
    stream = [int(crop[0][0, 0, 0]) for raw in batches(source, 0, 4) for crop in flat(raw).values()]
    assert set(stream) <= set(range(3, 20))
    assert sorted(shown(source)) == list(range(3, 20))
    if read == "whole":
        local = ShardSource(path=str(server.folder), where=where, window=2)
        assert equal(batches(at("{00000..00003}.tar", where=where, window=2), 0, 9), batches(local, 0, 9))


def test_expressions_compare_values_and_do_nothing_else():
    values = {"a": 5, "b": {"c": "x"}, "tags": ["cat"]}
    for text in ("a > 4 and b.c == 'x'", "1 < a <= 5", "'cat' in tags", "not a == -5", "b.c in ['x', 'y'] or missing"):
        assert holds(parse(text), values)
    for text in ("a > 5", "b.c != 'x'", "'dog' in tags"):
        assert not holds(parse(text), values)
    for text in ("__import__('os')", "a()", "a[0]", "a + 1", "(lambda: 1)", "a is 5", "a >", "f'{a}'", "9**9"):
        with pytest.raises(ValueError, match=r"not allowed|no expression"):
            parse(text)
    with pytest.raises(ValueError, match="longer than"):
        parse("a and " * 500 + "a")
    assert Choice(where=Where(min_side=1)).tag != Choice().tag == ""


def test_lazily_counted_orders_skip_empty_windows():
    from sr.data.counts import Counts

    counts = [0, 0, 3, 0, 2, 4, 0]
    for window in (1, 2, 3):
        lazy = Counts([-1] * 7, [-1] * 7, lambda shards, soon: [counts[shard] for shard in shards])
        known, lazily = SamplingOrder(counts, seed=1, window=window), SamplingOrder(lazy, seed=1, window=window)
        assert [lazily(p) for p in range(30)] == [known(p) for p in range(30)]
